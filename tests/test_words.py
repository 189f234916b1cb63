"""Names use the field's words: retired words are in no identifier, so that a reader knows a thing by its name."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fewbits"

# Identifiers that may not come back, each with the word that stands for it now.
RETIRED = {
    "Hold": "LastValue",
    "Words": "Modular",
    "to_words": "raw_bits",
    "Field": "ModularEncoding",
    "field_sum": "ModularEncoding.sum",
    "summand": "linear_values",
    "Track": "ReceiverState",
    "Turn": "ClientReply",
    "Post": "ClientChannel",
    "Site": "a part of the client core",
    "Roll": "ClientRegistry",
    "Books": "RunStore",
    "Judge": "Evaluator",
    "Crew": "NodePool",
    "Player": "NodeWorker",
    "Rows": "SharedVectors",
    "Board": "SharedBuffer or RendezvousStore",
    "Mailbox": "SharedRing",
    "Life": "Heartbeat",
    "Guard": "Watchdog",
    "GoneError": "PeerLostError",
    "last_words": "the reason of a failure",
    "Own": "PersonalUpdates",
    "Recipe": "HeldState",
    "Follower": "Subscriber",
    "Seed": "SharedInit",
    "Space": "IntrinsicSpace",
    "Protection": "DifferentialPrivacy",
    "Masking": "PairwiseMasking",
    "Stretches": "ScaleBlocks",
    "span": "flat_view",
    "front": "linear_prefix",
    "Sleepy": "IntermittentNodes",
    "asleep": "inactive",
    "Keeper": "FrameRecorder",
    "Lane": "ProgressRow",
    "Sentences": "ErrorGroup",
    "subject": "plan_model",
    "outline": "data_info",
    "among": "for_round_size",
    "laid_over": "wrap_method",
    "deal": "set_bundles",
    "_become": "_load",
    "told": "reported",
    "foretell": "forecast",
    "foretold": "forecast",
}
# Words that are retired wherever they stand in an identifier: each meant several things.
PARTS = {"own": "personal or private", "held": "stored, or the version held", "kept": "client_state"}
# Terms of the field, and one of ours with a page of its own, that contain such a word.
ALLOWED = {
    "held_out": "examples that are held out of training",
    "HeldState": "the public version that a client holds, and what was made for it alone since",
}
# Packages that had names of their own meaning.
PACKAGES = {"link": "links", "memory": "simulation", "dist": "distributed"}


def names_in(text):
    """(line, name) of all that a module defines: classes, functions, parameters, variables, attributes, aliases.

    Names that it only reads are defined elsewhere: in another module of ours, or in a library.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def words(name):
    """`client_state` and `ClientState` -> ["client", "state"]."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def better(name):
    """The word to use instead; None when the name is fine."""
    bare = name.lstrip("_")
    if name in RETIRED or bare in RETIRED:
        return RETIRED.get(name) or RETIRED[bare]
    rest = words(name)
    for term in map(words, ALLOWED):
        rest = without(rest, term)
    return next((PARTS[word] for word in rest if word in PARTS), None)


def without(found, term):
    """Words without the first place where the words of a term follow each other."""
    at = next((i for i in range(len(found)) if found[i : i + len(term)] == term), None)
    return found if at is None else found[:at] + found[at + len(term) :]


def findings(root):
    """One line for each retired name in a file, at its first place."""
    for path in sorted(root.rglob("*.py")):
        seen = set()
        for line, name in sorted(set(names_in(path.read_text()))):
            if better(name) and name not in seen:
                seen.add(name)
                yield f"{path.relative_to(root)}:{line}: {name} (now: {better(name)})"


def test_no_identifier_is_a_retired_word():
    found = list(findings(SOURCE))
    assert not found, "\n".join(found)


def test_no_module_is_called_by_a_retired_word():
    stems = [path.relative_to(SOURCE).with_suffix("") for path in sorted(SOURCE.rglob("*.py"))]
    assert [str(stem) for stem in stems if any(better(part) for part in stem.parts)] == []
    assert [str(stem) for stem in stems if any(part in PACKAGES for part in stem.parts[:-1])] == []


def test_every_allowed_name_is_used():
    used = [words(name) for path in SOURCE.rglob("*.py") for _, name in names_in(path.read_text())]
    assert [term for term in ALLOWED if all(without(found, words(term)) == found for found in used)] == []


@pytest.mark.parametrize(
    "text",
    [
        "class Hold: ...",
        "def f(kept): ...",
        "own_model = 1",
        "x.held = 1",
        "def f(*, kept_bits=1): ...",
        "for held in x: ...",
        "keptBits: int = 1",
        "from a import b as front",
        "def _foretold(): ...",
        "lambda own: 1",
    ],
)
def test_the_search_finds_every_kind_of_name(tmp_path, text):
    (tmp_path / "module.py").write_text(text)
    assert len(list(findings(tmp_path))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "holdout = 1",
        "owner = 1",
        "x = 'own8'",
        "frontier = 1",
        "held_out = 1",
        "from dataclasses import Field",
        "x = library.outline",
    ],
)
def test_the_search_leaves_other_names_alone(tmp_path, text):
    (tmp_path / "module.py").write_text(text)
    assert list(findings(tmp_path)) == []
