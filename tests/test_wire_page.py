"""docs/wire-format.md leaves no class out, and its tables of draws and payloads are what the library makes."""

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from every_codec import classes
from fewbits import codecs, coders
from fewbits.codecs import Codec, Transform
from fewbits.codecs.transforms.bases.basis import _MATRICES, KINDS
from fewbits.coders.base import Coder
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import Receiver, Sender
from fewbits.links.epochs import FINAL, NOW, WHOLE, EpochBroadcast
from fewbits.links.identity import PATCH, PERSONAL, SEED, codec_hash
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame
from fewbits.wire.identity import canonical
from identities import table as table_of
from second_decoder.bases import expand
from second_decoder.bits import Bits
from second_decoder.frames import Reader
from second_decoder.keys import Name
from second_decoder.text import DEFAULTS
from second_decoder.vectors import stored
from test_identity import subclasses

PAGE = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text()
SECTIONS = dict(zip(*[iter(re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True))
# Public names of the codecs that put no bits on a wire of their own: values, sums, abstract parents, and the rule of
# a sender that no reader follows.
NO_BITS = {
    "Adaptive",
    "Codec",
    "Contract",
    "FetchStep",
    "Keys",
    "Lift",
    "Partial",
    "Total",
    "Transform",
    "TreeSpec",
    "TreeTotal",
}


def rows(section):
    """The cells of all tables in a section, heads too."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]


def described():
    """Names in backticks in a heading, or at the start of a table's row; examples and identities do not count."""
    found = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^#+ .*$", PAGE, flags=re.MULTILINE))))
    for title, section in SECTIONS.items():
        if title not in ("Identity", "Examples"):
            first = [re.fullmatch(r"`(\w+)`(, (integers|floats))?", row[0].strip("| ")) for row in rows(section)]
            found |= {match[1] for match in first if match}
    return found


def on_the_wire(cls):
    """The name that a class has in a codec's text."""
    return repr(cls.examples()[0]).split("(")[0]


def coder_classes():
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(coders.__path__, "fewbits.coders.")]
    found = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    return sorted((cls for cls in found if issubclass(cls, Coder) and not inspect.isabstract(cls)), key=str)


@pytest.mark.parametrize("cls", [*classes(), *coder_classes()], ids=lambda cls: cls.__name__)
def test_every_codec_transform_and_coder_is_described(cls):
    assert on_the_wire(cls) in described()


@pytest.mark.parametrize("name", sorted(set(codecs.__all__) - NO_BITS))
def test_every_public_class_of_the_codecs_is_described(name):
    thing = getattr(codecs, name)
    if inspect.isclass(thing):
        own = on_the_wire(thing) if hasattr(thing, "examples") else name
        assert own in described()


@pytest.mark.parametrize("cls", [*classes(), *coder_classes()], ids=lambda cls: cls.__name__)
def test_every_wire_name_and_every_field_stands_in_the_section_identity(cls):
    text, *_ = re.findall(rf"`{cls.wire_name}\(.*?(?=`\w+\(|$)", SECTIONS["Identity"], flags=re.MULTILINE)
    for field, default in table_of(cls).items():
        assert re.search(rf"`{field}` \? `{re.escape(default)}`" if default else rf"\b{field}=", text)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_the_second_decoder_has_the_defaults_of_the_library(name):
    (cls,) = [cls for cls in [*classes(), *coder_classes()] if cls.wire_name == name]
    found = {field: default for field, default in table_of(cls).items() if default is not None}
    constants = {text: json.dumps(text) for text in DEFAULTS[name].values() if isinstance(text, str)}
    given = {field: "none" if x is None else constants.get(x, str(x)) for field, x in DEFAULTS[name].items()}
    assert found == given


def test_the_walk_finds_the_classes_of_every_room():
    walked = set(classes())
    made = {cls for cls in subclasses(Transform, Codec) if cls.__module__.startswith("fewbits.")}
    assert {cls for cls in made if "wire_name" in cls.__dict__} <= walked
    assert {cls.__module__.split(".")[2] for cls in walked} >= {"chain", "lifts", "transforms", "wrappers"}


def test_what_is_said_to_have_no_bits_is_public():
    assert set(codecs.__all__) >= NO_BITS


@pytest.mark.parametrize("kind", KINDS)
def test_every_basis_is_described(kind):
    assert {kind, _MATRICES[kind].__name__} <= described()


def test_every_kind_of_frame_is_described():
    kinds = {row[1] for row in rows(SECTIONS["Bundles"]) if len(row) > 2}
    assert {f"`{word}`" for word in (SEED, PATCH, PERSONAL)} <= kinds
    assert {WHOLE, FINAL, NOW} <= described()


def test_every_draw_of_a_key_is_described():
    drawn = {re.split(r"[ (]", row[0].strip("| "))[0] for row in rows(SECTIONS["Keys"])}
    public = {name for name, thing in vars(Key).items() if callable(thing) and not name.startswith("_")}
    assert public - {"fold", "text", "parse", "generator"} <= drawn  # `generator` is for draws that nobody repeats


def test_every_link_within_the_page_leads_to_a_heading():
    titles = re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def numbers(text):
    return [float(x) for x in text.split(", ")] if text != "none" else []


def table(title):
    """The rows below a heading, without the head."""
    below = re.split(rf"^### {re.escape(title)}$", PAGE, flags=re.MULTILINE)[1]
    return rows(re.split(r"^#+ ", below, flags=re.MULTILINE)[0])[2:]


def test_the_draws_of_one_key():
    found = {row[0].strip("| "): row[1].strip("| ") for row in table("Draws of one key")}
    key, name = Key(7).fold("round", 3), Name.of('[7, "round", 3]')
    assert Name.of(key.text()).digest(16) == key.digest(16)
    for draws in (key, name):
        assert found["digest(16)"] == f"`{draws.digest(16).hex()}`"
        assert found["word"] == str(draws.word())
        assert found["bits(5), hexadecimal"] == ", ".join(f"`{int(word):016x}`" for word in draws.bits(5))
        for text, values in (
            ("signs(10)", draws.signs(10)),
            ("uniform(3) * 2^24", draws.uniform(3) * 2**24),
            ("below(10, 8)", draws.below(10, 8)),
            ("subset(3, 10)", draws.subset(3, 10)),
            ("subset(8, 10)", draws.subset(8, 10)),
            ("permutation(6)", draws.permutation(6)),
            ("normal(5) * 2^16", draws.normal(5) * 2**16),
        ):
            assert found[text] == ", ".join(str(int(x)) for x in values)
        two = draws.shuffle(6, 2)
        assert found["shuffle(6, 2)"] == "; ".join(", ".join(str(int(x)) for x in row) for row in two)
    assert {"shuffle(6, 2)", "normal(5) * 2^16"} <= set(found)


@pytest.mark.parametrize("row", table("Payloads and values"), ids=lambda row: f"{row[0].strip('|` ')} of {row[1]}")
def test_the_payloads_and_values(row):
    text, given, payload, decoded = (cell.strip("|` ") for cell in row)
    payload = bytes.fromhex(payload.replace("none", ""))
    x = torch.tensor(numbers(given))
    expected = np.array(numbers(decoded), np.float32)
    codec = eval(text, {name: getattr(codecs, name) for name in codecs.__all__})
    (found,) = Reader(canonical(codec), [("tensor", len(x), "float32")]).message(Bits(payload), Name(0).fold(0))
    assert found.tobytes() == expected.tobytes()
    sender = Sender(codec, Spec.of(x), Key(0))
    frame = sender.send(x)
    assert repr(sender.codec) == text and frame[16:] == payload
    assert Receiver(codec, Spec.of(x)).receive(frame).numpy().tobytes() == expected.tobytes()


def test_the_intrinsic_run():
    found = [[cell.strip("|` ") for cell in row] for row in table("An intrinsic run")]
    base, epoch = np.zeros(5, np.float32), 0
    for name, payload, number, theta in found:
        x = stored(len(payload) // 8, "float32", Bits(bytes.fromhex(payload)))
        if name == WHOLE:
            base, epoch = x, int(number)
        elif name == FINAL:
            assert int(number) == epoch
            base, epoch = base + sum_of_parts(epoch, x), epoch + 1
        else:
            assert (base + sum_of_parts(epoch, x)).tobytes() == np.array(numbers(theta), np.float32).tobytes()
    assert [(name, int(n), bytes.fromhex(payload)) for name, payload, n, _ in found] == sent()


def sum_of_parts(epoch, s):
    total = np.zeros(5, np.float32)
    for j in range(2):
        if any(s[2 * j : 2 * j + 2]):
            key = Name(7).fold("epoch", epoch, "subspace", j)
            total = total + expand("sparse", "orthonormal", 5, 2, key, s[2 * j : 2 * j + 2])
    return total


def sent():
    """The same run by the library."""
    space = IntrinsicSpace(dim=2, mode="k-subspace", k=2, epoch=2, basis="sparse", scale="orthonormal", seed=7)
    server = EpochBroadcast(space, Spec((5,)), Key(0))
    server.publish({WHOLE: torch.arange(1.0, 6.0)})
    frames = server.frames(None)
    for version, s in ((1, [1.0, -2, 0, 0]), (2, [1.0, -2, 3, 0.5])):
        server.publish({NOW: torch.tensor(s)})
        frames += server.frames(version)
    names = {hash_: spec.entries[0][0] for hash_, spec in kinds(server)}
    parsed = map(Frame.parse, frames)
    return [(names[frame.header.codec], frame.header.sequence, bytes(frame.payload)) for frame in parsed]


def kinds(server):
    return [(codec_hash(codec, spec, kind), spec) for kind, codec, spec in server.kinds if not kind]
