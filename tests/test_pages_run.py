"""Code that README and docs print is run as it stands, page by page, and what they say it prints is what it prints.

Python blocks of a page run in order in one namespace. Some pages leave things to their reader, such as `model`:
PRELUDES has them. Every command is parsed by the program itself, and the quick ones are run.
"""

import math
import os
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.methods import named
from fewbits.methods.catalogue import options
from fewbits.methods.gossip import gossip_method
from fewbits.methods.text import read_all
from nodes import processes, run_all

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "_ext" not in page.parts)]
MEASURED = [ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("papers/*/README.md"))]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?: {4}|\t)\s*\S")  # behind an empty line, a block of code
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
PROGRAM = re.compile(r"\s*(fewbits|torchrun|make|python) ")
LANGUAGES = {"", "console", "diff", "output", "python", "sh", "text"}
ALONE = ["docs/howto/export.md", "docs/reference/results.md"]  # each block runs with nothing but the files before it
ELSEWHERE = {"docs/writing-a-codec.md"}  # tests/test_writing_a_codec.py runs its code

TORCH = "import copy, torch\nimport fewbits as fb\ntorch.manual_seed(0)\n"
FLOWER = """
import fewbits.flower
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as Strategy
FedAvg = lambda *_: Strategy()
"""
TASK = """
model = torch.nn.Linear(20, 4)
parts = [(torch.randn(20, 20), torch.randint(4, (20,))) for _ in range(4)]
(x0, y0), (x1, y1), (x2, y2), (x3, y3) = parts
x, y = parts[0]
"""
PRELUDES = {  # by page: what its reader has
    "README.md": FLOWER,
    "docs/architecture.md": """
from fewbits.wire import BitReader, BitWriter
codec, spec, x = fb.ErrorFeedback(fb.TopK(0.5)), fb.Spec((4,)), torch.randn(4)
keys, state, memory, out = fb.codecs.Keys(fb.Key(0), fb.Key(1)), codec.init(spec), codec.memory(spec), BitWriter()
common, sent = keys.common, BitWriter()
codec.write(codec.encode(x, spec, state, memory, keys)[0], spec, sent)
src = BitReader(sent.finish())
""",
    "docs/diagnose.md": """
module = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
train_x, test_x = torch.randn(320, 20), torch.randn(40, 20)
train_y, test_y = train_x[:, :4].argmax(1), test_x[:, :4].argmax(1)
""",
    "docs/flower.md": FLOWER,
    "docs/flower-strategies.md": FLOWER
    + """
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping
""",
    "docs/gossip-over-the-network.md": TASK + "task = fb.simulation.Task.of(model, parts)\n",
    "docs/howto/slow-links.md": """
model, other_model = torch.nn.Linear(20, 4), torch.nn.Linear(20, 4)
batches, loss = [(torch.randn(8, 20), torch.randint(4, (8,))) for _ in range(60)], torch.nn.CrossEntropyLoss()
""",
    "docs/gossip.md": TASK
    + """
method, network, me, key = fb.learn.Choco(gamma=0.5), fb.topology.ring(4), 0, fb.Key(0)
def train(flat_model):
    flat_model.shared.sub_(0.01)
    return 0.01
others = {j: fb.learn.Node(copy.deepcopy(model), method, network, j, key) for j in network.neighbours(me)}
frames = {j: node.step(train) for j, node in others.items()}
""",
}
# Commands of pages that are run, too; the others train for long, need data, or need a run.
QUICK = [
    "fewbits methods",
    "fewbits train --data digits --rounds 2 --out runs/check",
    "fewbits export runs/x",
    "fewbits inspect runs/x/model.frame",
]


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str


def blocks(page):
    return [Block(kind.strip(), text) for kind, text in FENCE.findall(page.read_text()) if not kind.startswith("{")]


def name_of(page):
    return str(page.relative_to(ROOT))


def commands(page):
    """The shell commands of a page, without comments, prompts and the output of console blocks."""
    for kind, text in blocks(page):
        lines = text.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        elif kind not in ("", "sh"):
            continue
        for line in lines:
            found = re.sub(r"\s#\s.*$", "", line).split(";")
            yield from (command.strip() for command in found if PROGRAM.match(command))


def with_code(pages):
    return [page for page in pages if any(block.kind == "python" for block in blocks(page))]


def all_commands():
    return [pytest.param(c, id=f"{name_of(page)}: {c[:60]}") for page in [*PAGES, *MEASURED] for c in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_says_what_it_is(page):
    assert {block.kind for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", [*PAGES, *MEASURED, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_no_code_is_marked_by_indentation_alone(page):
    """Such blocks have no language, and the tests here would not see them."""
    lines = ["", *FENCE.sub(lambda found: "\n" * found.group().count("\n"), page.read_text()).splitlines()]
    assert [now for before, now in pairwise(lines) if INDENTED.match(now) and not before.strip()] == []


def test_an_indented_block_is_noticed():
    assert INDENTED.match("    pip install fewbits") and INDENTED.match("\tmake test")
    assert not INDENTED.match("  of an item") and not INDENTED.match("    ")


@pytest.mark.parametrize("page", [p for p in with_code(PAGES) if name_of(p) not in ELSEWHERE], ids=name_of)
def test_python_of_a_page_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if re.search(r"World\(\)|init_process_group", page.read_text()):  # a process per node or rank
        on_ranks(page)
        return
    scope = {"__name__": "__main__"}
    code = [block for block in blocks(page) if block.kind in ("python", "output")]
    run(TORCH + PRELUDES.get(name_of(page), ""), scope, "prelude")
    for i, block in enumerate(code):
        if block.kind == "python":
            printed = run(block.text, scope, f"{name_of(page)}, block {i}")
        else:
            assert_like(printed, block.text)


@pytest.mark.parametrize("page", ALONE)
def test_each_block_of_a_page_runs_by_itself(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = [block.text for block in blocks(ROOT / page) if block.kind == "python"]
    assert code
    for i, text in enumerate(code):
        run(text, {"__name__": "__main__"}, f"{page}, block {i}")


def run(text, scope, name):
    """What the code prints."""
    out = StringIO()
    with redirect_stdout(out):
        exec(compile(text, name, "exec"), scope)
    return out.getvalue()


def on_ranks(page):
    """Fork the processes that torchrun would start."""
    code = "\n".join(block.text for block in blocks(page) if block.kind == "python")

    def act(process):
        names = {"RANK": process.rank, "LOCAL_RANK": process.rank, "WORLD_SIZE": process.size}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": process.host, "MASTER_PORT": str(process.port)}
        run(TORCH + PRELUDES[name_of(page)] + code, {"__name__": "__main__"}, name_of(page))

    for outcome in run_all(act, processes(4 if "ring(4)" in code else 2)):
        assert outcome.code == 0, outcome.text


def assert_like(printed, shown):
    """Word for word; figures of trainings may differ a little between processors."""
    assert NUMBER.sub("N", printed).split() == NUMBER.sub("N", shown).split()
    for a, b in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        assert math.isclose(float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=0.05), (printed, shown)


def test_a_stale_number_is_noticed():
    assert_like("accuracy 90%: 1,000 bytes", "accuracy 91%: 1,010 bytes")
    with pytest.raises(AssertionError):
        assert_like("accuracy 90%: 1,000 bytes", "accuracy 90%: 11,000 bytes")


@pytest.mark.parametrize("command", all_commands())
def test_a_command_of_a_page_is_one_that_the_program_takes(command):
    first, *words = shlex.split(command)
    if first == "torchrun":
        if "..." in words:
            return
        first, words = "fewbits", words[words.index("fewbits") + 1 :]
    if first == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif first == "python":
        assert (ROOT / words[0]).is_file()
    else:
        parse([__file__ if word.endswith(".crt") else word for word in words])  # a file that is there


def parse(words):
    """The program's own parser on the words; methods are built."""
    group = command = typer.main.get_command(app)
    context = group.make_context("fewbits", words, resilient_parsing=True)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, words, parent=context)
    given = context.params.get("methods") or context.params.get("method") or ""
    given = "" if (name, given) == ("train", "auto") else given  # no method, but the choice of one
    if name == "gossip":
        for text in given.split(",") if given else []:
            gossip_method(text)
    elif isinstance(given, str):
        for found in read_all(given, options):
            named(str(found))


def test_every_run_of_the_pages_has_a_folder_of_its_own():
    """A reader who follows the pages in any order is refused none, because no other run has filled it."""
    training = re.compile(r"fewbits (train|compare|gossip|diagnose) -(?!.*--resume)")
    runs = [c for page in PAGES for c in commands(page) if training.search(c) and "..." not in c]
    assert [command for command in runs if "--out " not in command] == []
    code = [block.text for page in PAGES for block in blocks(page) if block.kind == "python"]
    folders = [*re.findall(r"--out (\S+)", "\n".join(runs)), *re.findall(r'"(runs/[^"/]+)"', "\n".join(code))]
    assert [folder for folder in folders if folders.count(folder) > 1] == []


def test_a_command_with_an_unknown_option_is_noticed():
    with pytest.raises(Exception, match="No such option"):
        parse(["train", "--metod", "dense"])


def test_the_quick_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(next(block.text for block in blocks(ROOT / "docs/howto/export.md") if block.kind == "python"), {}, "a run")
    printed = {command for page in PAGES for command in commands(page)}
    for command in QUICK:
        assert command in printed
        result = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "100", "NO_COLOR": "1"})
        assert result.exit_code == 0, result.output


def stripped(text):
    """Lines of code without indentation and comments."""
    return [line for line in (re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines()) if line]


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("README.md", None, "examples/plain_loop.py"),
        ("docs/flower.md", "examples/flower/quickstart.py", "examples/flower/quickstart_fewbits.py"),
    ],
)
def test_a_diff_is_between_the_examples(page, before, after):
    """The lines without a minus stand in the example in this order; those without a plus in the one before."""
    (diff,) = (block.text for block in blocks(ROOT / page) if block.kind == "diff")
    for sign, example in (("-", after), ("+", before)):
        if example is not None:
            lines = iter(stripped((ROOT / example).read_text()))
            kept = stripped("\n".join(line[1:] for line in diff.splitlines() if line[:1] != sign))
            assert [line for line in kept if line not in lines] == []
