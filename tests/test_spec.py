"""Spec and Contract: what a value is before it is one."""

import math

import numpy as np
import pytest
import torch

from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.spec import FLOATS, INTEGERS, Contract, Spec, TreeSpec


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 0, 5)])
def test_a_spec_describes_its_tensor(dtype, shape):
    x = torch.zeros(shape, dtype=getattr(torch, dtype))
    spec = Spec.of(x)
    assert spec == Spec(shape, dtype)
    assert (spec.numel, spec.torch_dtype, spec.bits) == (x.numel(), x.dtype, 8 * x.element_size())
    assert not spec.integer


@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_integer_spec_counts_its_levels(dtype):
    spec = Spec((3,), dtype, 0, 100)
    assert spec.integer and spec.levels == 101
    assert spec.bits == 8 * torch.zeros(1, dtype=spec.torch_dtype).element_size()
    assert Spec((3,), dtype, 5, 5).levels == 1


def test_the_widest_range_of_a_type_is_allowed_and_no_wider():
    for dtype in INTEGERS:
        info = torch.iinfo(getattr(torch, dtype))
        assert Spec((), dtype, info.min, info.max).levels == info.max - info.min + 1
        with pytest.raises(LocalError, match="low <= high"):
            Spec((), dtype, info.min - 1, info.max)
        with pytest.raises(LocalError, match="low <= high"):
            Spec((), dtype, info.min, info.max + 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((2,), "complex64"), "dtype must be one of"),
        (((2, -1),), "must not be negative"),
        (((2,), "int8"), "need low and high"),
        (((2,), "int8", 0), "need low and high"),
        (((2,), "float32", 0, 1), "need low and high"),
        (((2,), "int8", 3, 2), "low <= high"),
        (((4,), "float32", None, None, (1, 2)), "segments sum to 3 but the tensor has 4"),
        (((4,), "float32", None, None, (5, -1)), "segment lengths must not be negative"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(LocalError, match=sentence):
        Spec(*arguments)


def test_floats_have_no_levels():
    with pytest.raises(LocalError, match="quantise them first"):
        _ = Spec((2,)).levels


def test_split_gives_one_flat_spec_per_segment():
    whole = Spec((9,), "int8", -1, 1, segments=(2, 3, 4))
    assert whole.split() == [Spec((n,), "int8", -1, 1) for n in (2, 3, 4)]
    assert Spec((3, 4)).split() == [Spec((12,))]
    assert sum(part.numel for part in whole.split()) == whole.numel


def test_specs_are_values():
    assert Spec((2, 3)) == Spec((2, 3)) and hash(Spec((2, 3))) == hash(Spec((2, 3)))
    spec = Spec((2, 3), "int16", -5, 5, (2, 4))
    assert eval(repr(spec)) == spec
    with pytest.raises(AttributeError):
        spec.shape = (1,)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_tree_keeps_names_and_order():
    tensors = {"b": torch.zeros(2, 2), "a": torch.zeros(3, dtype=torch.float16)}
    tree = Spec.of(tensors)
    assert isinstance(tree, TreeSpec)
    assert list(tree) == [("b", Spec((2, 2))), ("a", Spec((3,), "float16"))]
    assert (len(tree), tree.numel) == (2, 7)
    assert tree != Spec.of(dict(reversed(tensors.items())))  # the order is part of the contract
    assert Spec.of({}) == TreeSpec(()) and Spec.of(dict[str, torch.Tensor]()).numel == 0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.zeros(2, dtype=torch.int32), "expected a float tensor"),
        ([1.0, 2.0], "expected a tensor or a dict"),
        ({"w": 1.0}, "'w': float"),
        ({3: torch.zeros(1)}, "3: Tensor"),
        ({"w": torch.zeros(1, dtype=torch.bool)}, "^w: .*expected a float tensor"),
    ],
)
def test_what_is_no_value_is_refused_by_name(value, sentence):
    with pytest.raises(LocalError, match=sentence):
        Spec.of(value)


def test_a_contract_promises_nothing_unless_told():
    nothing = Contract()
    assert (nothing.lossless, nothing.omega, nothing.delta, nothing.payload_bits, nothing.linear) == (
        False,
        *[None] * 3,
        False,
    )


def test_numel_is_the_product_without_overflow():
    assert Spec((2**40, 2**40)).numel == math.prod([2**40, 2**40]) == 2**80


def test_errors_say_whose_mistake_it_is():
    assert issubclass(DesyncError, WireError) and not issubclass(WireError, LocalError)
    assert not issubclass(LocalError, WireError)
    assert all(issubclass(error, ValueError) for error in (LocalError, WireError, DesyncError))


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, torch.tensor])
def test_any_kind_of_whole_number_gives_the_spec_of_plain_ones(kind):
    given = Spec((kind(3),), "int8", kind(0), kind(1), (kind(3),))
    derived = Spec((2,), "int8", 0, 1).derive(shape=[kind(3)], low=kind(0), high=True, segments=[kind(3)])
    assert given == derived == Spec((3,), "int8", 0, 1, (3,))
    for spec in (given, derived):
        assert {type(n) for n in (*spec.shape, *spec.segments, spec.low, spec.high)} == {int}


@pytest.mark.parametrize("wrong", [{"low": -1.0}, {"high": "7"}, {"shape": (2.5,)}, {"segments": (1.0, 1.0)}])
def test_what_is_no_whole_number_is_refused(wrong):
    with pytest.raises(LocalError, match="takes whole numbers"):
        Spec((2,), "int8", -1, 7).derive(**wrong)
