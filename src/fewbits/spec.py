"""Spec: static description of a tensor (shape, dtype, integer range); Contract: the guarantees of a codec."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import index
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_one_of
from fewbits.errors import LocalError

FLOATS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}
INTEGERS = {"int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}
MOST_DERIVATIVES = 64  # that a Spec remembers


@dataclass(frozen=True)
class Spec:
    """Static description of a tensor: shape, dtype, integer range.

    Both ends of a link are built with equal Specs, so that no shape travels.

    Args:
        shape: sizes of the dimensions, in elements.
        dtype: name of a torch dtype: a float of 16 to 64 bits, or an integer of 8 to 64 bits.
        low: smallest level of an integer tensor, inclusive; None for floats.
        high: largest level of an integer tensor, inclusive; None for floats.
        segments: lengths, in elements, of the tensors that were concatenated to this vector; empty: one segment.
            Codecs that work tensor by tensor need them.

    Raises:
        LocalError: the dtype is unknown, a size is negative, the range does not fit the dtype, or the segments do not
            sum to the number of elements.

    Example:
        >>> levels = Spec((5,), "int8", low=-7, high=7)
        >>> levels.numel, levels.levels
        (5, 15)
    """

    wire_name: ClassVar[str] = "tensor"

    shape: tuple[int, ...]  # in elements
    dtype: str = "float32"  # name of a torch dtype
    low: int | None = None  # integers only: smallest level, inclusive
    high: int | None = None  # integers only: largest level, inclusive
    segments: tuple[int, ...] = ()  # lengths, in elements; their sum is numel

    def __post_init__(self) -> None:
        check_one_of("Spec: dtype", self.dtype, [*FLOATS, *INTEGERS])
        # Plain integers, whatever kind they came in: equal Specs are the same in all that is derived from them.
        for name in ("shape", "segments"):
            object.__setattr__(self, name, tuple(_whole(name, n) for n in getattr(self, name)))
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if any(n < 0 for n in self.shape):
            raise LocalError(f"Spec: sizes must not be negative; got {self.shape}")
        if (self.low is None) != (self.high is None) or (self.low is not None) != self.integer:
            raise LocalError(
                f"Spec: integers (and only they) need low and high; got {self.dtype} {self.low}..{self.high}"
            )
        if self.low is not None and self.high is not None:
            kind = torch.iinfo(self.torch_dtype)
            if not kind.min <= self.low <= self.high <= kind.max:
                raise LocalError(
                    f"Spec: need {kind.min} <= low <= high <= {kind.max} for {self.dtype}; got {self.low}..{self.high}"
                )
        if any(n < 0 for n in self.segments):
            raise LocalError(f"Spec: segment lengths must not be negative; got {self.segments}")
        if self.segments and sum(self.segments) != self.numel:
            raise LocalError(f"Spec: segments sum to {sum(self.segments)} but the tensor has {self.numel} elements")

    @cached_property
    def integer(self) -> bool:
        """Whether the dtype is an integer."""
        return self.dtype in INTEGERS

    @cached_property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def bits(self) -> int:
        """Bits per element in memory."""
        return (FLOATS | INTEGERS)[self.dtype]

    @cached_property
    def levels(self) -> int:
        """Number of levels of an integer tensor, high - low + 1."""
        if self.low is None or self.high is None:
            raise LocalError(f"Spec: {self.dtype} values have no levels; quantise them first")
        return self.high - self.low + 1

    @cached_property
    def torch_dtype(self) -> torch.dtype:
        """Torch dtype of the same name."""
        return getattr(torch, self.dtype)

    def derive(self, **changes: Any) -> Spec:
        """As `dataclasses.replace`; equal ones with equal changes give one object, so that nothing is checked twice.

        >>> Spec((4,)).derive(shape=(2,)) is Spec((4,)).derive(shape=(2,))
        True
        """
        asked = tuple(changes.items())
        known = self.__dict__.setdefault("_derivatives", {})  # a look there hashes no Spec
        try:
            return known[asked]
        except (KeyError, TypeError):
            hashable = tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in asked)
        if len(known) >= MOST_DERIVATIVES:
            known.clear()
        known[hashable] = found = _derived(self, hashable)
        return found

    def split(self) -> list[Spec]:
        """Return one flat Spec per segment."""
        if not self.segments:
            return [self.derive(shape=(self.numel,))]
        return [self.derive(shape=(n,), segments=()) for n in self.segments]

    @staticmethod
    def of(x: Tensor | Mapping[str, Tensor]) -> Spec | TreeSpec:
        """Describe a float tensor, or a dict of named float tensors.

        Args:
            x: a tensor, or a dict from names to tensors; its order is part of the description.

        Raises:
            LocalError: x is something else, or holds integers.

        Example:
            >>> Spec.of(torch.zeros(3, 4))
            Spec(shape=(3, 4), dtype='float32', low=None, high=None, segments=())
        """
        if isinstance(x, Tensor):
            name = str(x.dtype).removeprefix("torch.")
            if name not in FLOATS:
                raise LocalError(f"Spec.of: expected a float tensor ({', '.join(FLOATS)}); got {name}")
            return Spec(tuple(x.shape), name)
        if isinstance(x, Mapping):
            return TreeSpec(tuple((str(name), _leaf(name, value)) for name, value in x.items()))
        raise LocalError(f"Spec.of: expected a tensor or a dict of named tensors; got {type(x).__name__}")


@lru_cache(maxsize=4096)
def _derived(spec: Spec, changes: tuple[tuple[str, Any], ...]) -> Spec:
    return replace(spec, **dict(changes))


def _whole(name: str, n: Any) -> int:
    try:
        return int(index(n))  # int: a bool is its own index
    except TypeError:
        raise LocalError(f"Spec: {name} takes whole numbers; got {n!r}") from None


def _leaf(name: object, value: object) -> Spec:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise LocalError(f"Spec.of: a dict must map names to tensors; got {name!r}: {type(value).__name__}")
    try:
        spec = Spec.of(value)
    except LocalError as error:
        raise LocalError(f"{name}: {error}") from None
    assert isinstance(spec, Spec)
    return spec


@dataclass(frozen=True)
class TreeSpec:
    """Names and Specs of a dict of tensors, in the dict's order, which both ends must share.

    Args:
        entries: (name, Spec) pairs.
    """

    wire_name: ClassVar[str] = "tree"

    entries: tuple[tuple[str, Spec], ...]

    @cached_property
    def numel(self) -> int:
        """Number of elements of all tensors."""
        return sum(spec.numel for _, spec in self.entries)

    def __iter__(self) -> Iterator[tuple[str, Spec]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Contract:
    """Guarantees of a codec for one Spec; C is its encode-then-decode map. The tests check each guarantee.

    Unbiased: ``E C(x) = x`` and ``E|C(x) - x|^2 <= omega |x|^2``. Contractive: ``E|C(x) - x|^2 <= (1 - delta) |x|^2``.

    Args:
        lossless: C(x) == x bit for bit.
        omega: relative variance of an unbiased codec; None: biased, or no bound.
        delta: contraction, 0 < delta <= 1; None: no bound.
        payload_bits: exact size of every payload in bits; None: it depends on the values.
        portable: the same input gives the same bytes on every machine and device.
        linear: messages of one round may be added before they are expanded.
        bounded: C(x) is finite for every finite x.

    Example:
        >>> import fewbits as fb
        >>> fb.chain(fb.RandK(0.25, mode="unbiased")).contract(Spec((100,))).omega
        3.0

    References:
        The two classes of compressors of Beznosikov, Horvath, Richtarik and Safaryan, On Biased Compression for
        Distributed Learning, JMLR 2023.
    """

    lossless: bool = False  # C(x) == x bit for bit
    omega: float | None = None  # larger: more variance; None: biased, or no bound
    delta: float | None = None  # in (0, 1]; larger: less is lost; None: no bound
    payload_bits: int | None = None  # bits of every payload; None: depends on the values
    portable: bool = True  # same input, same bytes on every machine and device
    linear: bool = False  # messages of one round may be added before they are expanded
    bounded: bool = False  # C(x) is finite for every finite x
