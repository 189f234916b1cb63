"""Laws of identities: equal values have equal texts, unequal ones unequal texts, and Python's names stand in none."""

import json
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from every_codec import CODECS, PRIVATE, TREE, deliver, ends, run, stream
from fewbits.codecs import Adaptive, Codec, LookBack, Quantize, Raw, TopK, Transform, as_lift, chain
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links import Receiver, Sender
from fewbits.links.identity import codec_hash
from fewbits.spec import Spec
from fewbits.testing.identity_laws import twins
from fewbits.wire.identity import WIRE_NAME, canonical, wire_name
from identities import Holder, everything, pinned, wired

GOLDEN = json.loads((Path(__file__).parent / "golden" / "identities-v1.json").read_text())
VALUES = everything()


@pytest.mark.parametrize("value", VALUES, ids=canonical)
def test_equal_values_have_one_text_whatever_the_types_of_their_numbers(value):
    for twin in twins(value):
        assert twin == value
        assert canonical(twin) == canonical(value)


def test_most_numbers_have_a_twin():
    assert sum(len(twins(value)) for value in VALUES) > 200


def test_unequal_values_have_unequal_texts():
    texts: dict[str, Any] = {}
    for value in VALUES:
        assert texts.setdefault(canonical(value), value) == value
    assert len(texts) == len(set(VALUES))


def test_an_adaptive_rule_of_1_understands_one_of_1_0():
    sender, receiver = (
        Sender(LookBack(Raw(), Adaptive(1, 5)), TREE, PRIVATE),
        Receiver(
            LookBack(Raw(), Adaptive(1.0, np.int64(5), np.float32(1))),
            TREE,  # pyright: ignore
        ),
    )
    for x in stream(3):
        deliver(sender, receiver, x)


def renamed(value: Any) -> Any:
    """The same value of a class with another name in Python, all that is in it too."""
    if isinstance(value, tuple):
        return tuple(map(renamed, value))
    if not hasattr(value, "wire_name"):
        return value
    cls = type(value)
    other = type(f"Renamed{cls.__name__}", (cls,), {"wire_name": cls.wire_name, "__repr__": lambda self: "renamed"})
    made = object.__new__(other)
    for f in fields(value):
        object.__setattr__(made, f.name, renamed(getattr(value, f.name)))
    return made


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_another_name_in_python_changes_no_frame(codec):
    other = renamed(as_lift(codec, "test"))
    xs = list(stream(3))
    assert repr(other) == "renamed" and canonical(other) == canonical(as_lift(codec, "test"))
    assert run(other, xs)[0] == run(codec, xs)[0]


def test_every_class_of_an_identity_has_a_name_of_its_own_and_an_instance_here():
    names = wired()  # fails on a name of two classes
    assert all(WIRE_NAME.fullmatch(name) for name in names)
    assert {wire_name(value) for value in VALUES} == set(names)
    concrete = [cls for cls in subclasses(Transform, Codec) if cls.__module__.startswith("fewbits.")]
    assert [cls for cls in concrete if "examples" in cls.__dict__ and "wire_name" not in cls.__dict__] == [
        Transform,
        Codec,
    ]


def subclasses(*roots: type) -> list[type]:
    return [deep for root in roots for deep in (root, *subclasses(*root.__subclasses__()))]


def test_names_fields_defaults_texts_and_hashes_are_as_they_were_pinned():
    found = pinned()
    assert set(found) == set(GOLDEN), "run tests/golden/make.py for what is new; what was there stays"
    for name, golden in GOLDEN.items():
        if isinstance(golden, dict):  # fields that came later, with a default, change nothing
            assert {k: found[name].get(k) for k in golden} == golden, name
            assert None not in [default for k, default in found[name].items() if k not in golden], name
        else:
            assert found[name] == golden, name


@dataclass(frozen=True)
class Nameless(type(TopK(1))):  # a subclass that declares nothing would pass for its parent
    """A class without a wire name of its own."""


@dataclass
class Mutable:
    """A class whose values may change."""

    wire_name: ClassVar[str] = "mutable"

    size: int = 1


@dataclass(frozen=True)
class Shouting:
    """A class whose wire name follows no rule."""

    wire_name: ClassVar[str] = "Shouting!"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Nameless(0.5), "Nameless needs a wire name"),
        (Shouting(), "wire name"),
        (Mutable(), "frozen dataclass"),
        (Holder(float("nan")), "finite"),
        (Holder(float("-inf")), "finite"),
        (Holder(np.float32("nan")), "finite"),
        (Holder((1, (float("nan"),))), "holder: value must be finite"),
        (Holder(torch.ones(2)), "Tensor"),
        (Holder(np.ones(2)), "ndarray"),
        (Holder([1, 2]), "list"),
        (Holder({"a": 1}), "dict"),
        (Holder(1j), "complex"),
        (Holder(TopK), "got ABCMeta"),
        (Holder(chain(Nameless(0.5))), "Nameless"),
    ],
)
def test_what_has_no_canonical_text_is_refused_with_a_sentence(value, says):
    with pytest.raises(LocalError, match=says):
        canonical(value)


def test_a_link_refuses_a_codec_without_a_wire_name():
    for end in (lambda c: Sender(c, TREE, PRIVATE), lambda c: Receiver(c, TREE)):
        with pytest.raises(LocalError, match="wire name"):
            end(Nameless(0.5))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.float16(1), "1"),
        (np.uint8(1), "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.10000000149011612"),
        (1e-5, "1e-05"),
        (2.0**60, "1152921504606846976"),
        (2**60 + 1, "1152921504606846977"),
        (True, "true"),
        (np.bool_(False), "false"),
        (None, "none"),
        ('a"\n\u00f6', '"a\\"\\n\\u00f6"'),
        ("", '""'),
        ((), "[]"),
        ((1, ("a", None)), '[1,["a",none]]'),
        (torch.Size([2, 3]), "[2,3]"),
        (Raw("fp16"), 'raw(dtype="fp16")'),
    ],
)
def test_the_text_of_each_kind(value, text):
    assert canonical(Holder(value)) == f"holder(value={text})"


def test_texts_cannot_be_taken_for_one_another():
    parts = ["1", 1, True, None, "none", "true", (), "[]", ("",), ("1",), (1,), ("1,1",), ("1", "1"), (1, 1), ((1,), 1)]
    assert len({canonical(Holder(part)) for part in parts}) == len(parts)


def versions(*specs: Any) -> Any:
    return make_dataclass("Growing", specs, frozen=True, namespace={"wire_name": "growing"})


def test_a_field_that_comes_later_with_a_default_or_elsewhere_changes_no_identity():
    before = versions(("a", float), ("c", int, field(default=1)))
    after = versions(("a", float), ("b", object, field(default=None)), ("c", int, field(default=1.0)))
    assert canonical(before(0.5)) == canonical(after(0.5)) == "growing(a=0.5)"
    assert canonical(before(0.5, c=2)) == canonical(after(0.5, c=2)) == "growing(a=0.5,c=2)"
    assert canonical(after(0.5, b=1)) == "growing(a=0.5,b=1)"


def test_a_field_may_keep_its_name_on_the_wire_when_python_renames_it():
    after = versions(("alpha", float, field(metadata={"wire": "z"})), ("b", int))
    assert canonical(after(0.5, 2)) == canonical(versions(("z", float), ("b", int))(0.5, 2)) == "growing(b=2,z=0.5)"


def test_what_does_not_take_part_in_equality_stands_in_no_text():
    kind = versions(("a", int), ("note", object, field(default=None, compare=False)))
    assert kind(1, "x") == kind(1, "y") and canonical(kind(1, "x")) == "growing(a=1)"


def test_the_hash_tells_codecs_specs_and_kinds_apart():
    codec, other = as_lift(TopK(0.1), "test"), as_lift(TopK(0.2), "test")
    found = {
        codec_hash(codec, TREE),
        codec_hash(other, TREE),
        codec_hash(codec, Spec((41,))),
        codec_hash(codec, TREE, "own "),
    }
    assert len(found) == 4
    stack = chain(TopK(0.1), Quantize(bits=4), Rans())
    assert codec_hash(stack, TREE) == codec_hash(chain(TopK(0.1), Quantize(bits=4), Rans()), TREE)


def test_frames_of_another_codec_are_refused():
    sender, _ = ends(TopK(0.1))
    with pytest.raises(Exception, match="codec"):
        Receiver(TopK(0.2), TREE).receive(sender.send(next(stream(1))))
