"""The two kinds of codec: a Transform is stateless and is what most authors write; a Codec lives on a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.codecs import finiteness, large
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True)
class Keys:
    """The randomness of one message.

    Args:
        private: the sender's own key, which dithers and roundings are drawn from.
        common: the key that both ends have; supports and bases are drawn from it and never sent.

    Example:
        >>> Keys(private=Key(1), common=Key(2)).common == Key(2)
        True
    """

    private: Key  # the sender's own: dither
    common: Key  # both ends have it: supports and bases that are never sent


class Transform(ABC):
    """A stateless step: a float vector is split into side information and a carrier for the next step.

    Frozen value. `join(side, carrier)` is the receiver's reconstruction. Vectors are flat and contiguous; the
    Spec that comes with each call is the vector's. Most codecs of other authors are a subclass of this one.

    Example:
        >>> import torch, fewbits as fb
        >>> x, spec = torch.tensor([1.0, -5.0, 2.0]), Spec((3,))
        >>> side, carrier = fb.TopK(1 / 3).split(x, spec, Keys(Key(0), Key(0)))
        >>> side.tolist(), carrier.tolist(), fb.TopK(1 / 3).join(side, carrier, spec).tolist()
        ([1], [-5.0], [0.0, -5.0, 0.0])
    """

    wire_name: ClassVar[str]  # what frames call the class, whatever Python does; lower case, unique, for ever
    linear: ClassVar[bool] = False  # join is linear in the carrier, and one round's senders share the side
    sparse: ClassVar[bool] = False  # the side is an ascending support; join scatters the carrier onto it
    quantises: ClassVar[bool] = False  # the carrier is integers

    @property
    def projection(self) -> bool:
        """True when join(split(x)) is an orthogonal projection of x."""
        return False

    @abstractmethod
    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Any, Tensor]:
        """x -> (side information, carrier)."""

    @abstractmethod
    def join(self, side: Any, carrier: Tensor, spec: Spec) -> Tensor:
        """(side information, carrier) -> x_hat, of spec's shape and dtype."""

    @abstractmethod
    def carrier(self, side: Any, spec: Spec) -> Spec:
        """The Spec the next step will see; with side None, that of the largest carrier."""

    def write(self, side: Any, spec: Spec, out: BitWriter) -> None:  # noqa: B027 - a step without side writes nothing
        """Append the side information; nothing by default."""

    def read(self, spec: Spec, src: BitReader, common: Key) -> Any:
        """Read back exactly the side that was written, or rebuild it from the common key."""
        return None

    @abstractmethod
    def contract(self, spec: Spec) -> Contract:
        """What is promised for vectors of this Spec; payload_bits counts the side only."""

    def check(self) -> None:  # noqa: B027 - most steps may
        """Raise LocalError when this transform may not stand under error feedback; by default it may."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Transform]:
        """Instances that the conformance tests use."""


class Codec(ABC):
    """What lives on a link: a frozen value with pure functions over two pieces of state.

    *Shared state* is the same at both ends, because only `decode` makes a new one and both ends run it on the same
    message. *Memory* belongs to the sender alone and is never needed by the receiver.

    Example:
        >>> import torch, fewbits as fb
        >>> codec, spec, keys = fb.ErrorFeedback(fb.TopK(1 / 2)), Spec((2,)), Keys(Key(0), Key(0))
        >>> state, memory = codec.init(spec), codec.memory(spec)
        >>> message, memory = codec.encode(torch.tensor([1.0, 5.0]), spec, state, memory, keys)
        >>> value, state = codec.decode(message, spec, state)
        >>> value.tolist(), memory[0].tolist()
        ([0.0, 5.0], [1.0, 0.0])
    """

    wire_name: ClassVar[str]  # what frames call the class, whatever Python does; lower case, unique, for ever
    lift: ClassVar[bool] = False  # takes a dict of named tensors, not one vector

    @property
    def inner(self) -> Sequence[Codec]:
        """The codecs this one wraps."""
        return ()

    @property
    def stateless(self) -> bool:
        """True when every message can be decoded on its own."""
        return all(codec.stateless for codec in self.inner)

    def check(self, spec: Spec) -> None:
        """Raise LocalError when the codec does not fit `spec`."""
        for codec in self.inner:
            codec.check(spec)

    @abstractmethod
    def init(self, spec: Spec) -> Any:
        """The shared state before the first message."""

    def start(self, x: Tensor, spec: Spec) -> Any:
        """The shared state of ends that both already know x; by default that is no help."""
        return self.init(spec)

    @abstractmethod
    def memory(self, spec: Spec) -> Any:
        """The sender's own state before the first message."""

    @abstractmethod
    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        """x -> (message, new memory); pure, and shared state is not touched."""

    @abstractmethod
    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        """message -> (x_hat, new shared state); pure, and run by both ends."""

    @abstractmethod
    def write(self, message: Any, spec: Spec, out: BitWriter) -> None:
        """Append the message; the law is read(write(m)) == m, exactly."""

    @abstractmethod
    def read(self, spec: Spec, src: BitReader, common: Key) -> Any:
        """Read one message; WireError on anything `write` could not have written."""

    @abstractmethod
    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        """Append the shared state, compactly: look-back vectors as the payload they came in."""

    @abstractmethod
    def read_state(self, spec: Spec, src: BitReader) -> Any:
        """Read back exactly the state that was written."""

    @abstractmethod
    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        """Append the sender's own state."""

    @abstractmethod
    def read_memory(self, spec: Spec, src: BitReader) -> Any:
        """Read back exactly the memory that was written."""

    @abstractmethod
    def contract(self, spec: Spec) -> Contract:
        """What is promised for vectors of this Spec."""

    def partial(self, message: Any, spec: Spec, state: Any) -> tuple[Partial, Any]:
        """Decode as far as a sum may be taken: (partial, new shared state); by default, all the way."""
        x, state = self.decode(message, spec, state)
        return Partial(x), state

    def follow(self, message: Any, spec: Spec, state: Any) -> Any:
        """The shared state after a message, without its value."""
        return state if self.stateless else self.partial(message, spec, state)[1]

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        """Finish the decoding of a sum of partials."""
        return total

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        """Figures worth plotting, from the message and, at the sender, its memory after the message."""
        return {}

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Codec]:
        """Instances that the conformance tests use."""


@dataclass(frozen=True)
class Partial:
    """One message on its way into a sum: `scale * values`, on `support` when that is given.

    Args:
        values: (m,) numbers.
        support: (m,) ascending positions in the vector; None: all of them.
        scale: factor of the values.
        side: what `complete` needs to expand the sum; equal for all senders of a round.
    """

    values: Tensor  # (m,)
    support: Tensor | None = None  # (m,) ascending positions in the vector, or None: all of them
    scale: float = 1.0
    side: Any = None  # what complete() needs; equal for all senders of a round

    @cached_property
    def norm(self) -> float:
        """The 2-norm of scale * values."""
        return abs(self.scale) * finiteness.norm(self.values)


class Total:
    """A weighted sum of partials of one codec, expanded once at the end; sparse ones are scattered straight in.

    Args:
        codec: the codec that all messages are from.
        spec: of the vector.

    Example:
        >>> import torch, fewbits as fb
        >>> total = Total(fb.chain(fb.TopK(0.5)), Spec((4,)))
        >>> total.add(Partial(torch.ones(2), torch.tensor([0, 3]), scale=2.0), weight=3)
        >>> total.value()
        tensor([6., 0., 0., 6.])
    """

    def __init__(self, codec: Codec, spec: Spec) -> None:
        self.codec, self.spec = codec, spec
        self._sum: Tensor | None = None
        self._side: Any = None
        self._expanded: Tensor | None = None  # of messages whose side is not the first one's

    def add(self, partial: Partial, weight: float) -> None:
        """Add `weight` times one message's partial; float32 (float64 for float64), in the order of the calls.

        One whose side differs from the first one's, as after missed rounds, is expanded by itself.
        """
        values, share = partial.values.to(wide(self.spec).torch_dtype), weight * partial.scale
        if self._sum is None:
            size = len(values) if partial.support is None else self.spec.numel
            self._sum, self._side = large.zeros(size, values.dtype), partial.side
        elif not same(partial.side, self._side):
            expanded = self.codec.complete(values * share, partial.side, wide(self.spec))
            self._expanded = expanded if self._expanded is None else self._expanded + expanded
            return
        if partial.support is None:
            self._sum.add_(values, alpha=share)
        else:
            self._sum.index_add_(0, partial.support, values, alpha=share)

    @property
    def carried(self) -> Tensor:
        """The sum before it is expanded; LocalError when nothing was added, or sides were not all the same.  # (m,)"""
        if self._sum is None or self._expanded is not None:
            raise LocalError(f"Total.carried: needs one or more messages with one side of {self.codec!r}")
        return self._sum

    def value(self) -> Tensor:
        """The sum, expanded; zeros when nothing was added.  # (numel,)"""
        if self._sum is None:
            return large.zeros(self.spec.numel, wide(self.spec).torch_dtype)
        total = self.codec.complete(self._sum, self._side, wide(self.spec))
        return total if self._expanded is None else total + self._expanded


def wide(spec: Spec) -> Spec:
    """The Spec in which sums and differences are taken: float32, or float64 for float64."""
    return spec if spec.dtype in ("float32", "float64") else spec.derive(dtype="float32")


def same(a: Any, b: Any) -> bool:
    """Equality of messages, states and sides: nested tuples of tensors (compared bit for bit) and plain values.

    Example:
        >>> import torch
        >>> same((torch.zeros(1), 2), (torch.zeros(1), 2)), same(torch.zeros(1), -torch.zeros(1))
        (True, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw_bits(a), raw_bits(b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def raw_bits(x: Tensor) -> Tensor:
    """A float tensor's bits as integers of the same width; integers as they are."""
    if not x.dtype.is_floating_point:
        return x
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
