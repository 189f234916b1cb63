"""SinceStart: the entries that are not those of a start which both ends know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fewbits.codecs import large
from fewbits.codecs.base import Codec, Keys, raw_bits
from fewbits.codecs.wrappers.wrapper import read_entries, read_vector, write_entries, write_vector
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


class Entries(NamedTuple):
    """Some entries of a vector."""

    places: Tensor  # (k,) int64, ascending
    values: Tensor  # (k,)


@dataclass(frozen=True)
class SinceStart(Codec):
    """Send the entries that are not those of the start, as they are; constants cost a bit or so.

    Both ends have the start h, which never changes. Entry i travels, by place and value, where the bits of x_i are not
    those of h_i. So nothing is lost, the sign of zero included, and every message can be decoded without the others.
    Without a start, h = 0.

    A `StartedBroadcast` sends the start at first contact. Downlinks of whole models use it for float buffers: running
    statistics change, and masks and tables stay as they are.

    Example:
        >>> import torch
        >>> from fewbits.codecs import Keys, SinceStart
        >>> codec, spec, keys = SinceStart(), Spec((4,)), Keys(Key(0), Key(0))
        >>> h = codec.start(torch.tensor([1.0, 2.0, 3.0, 4.0]), spec)
        >>> message, _ = codec.encode(torch.tensor([1.0, 2.0, 0.5, 4.0]), spec, h, (), keys)
        >>> message.places, codec.decode(message, spec, h)[0]
        (tensor([2]), tensor([1.0000, 2.0000, 0.5000, 4.0000]))

    Source: ours.
    """

    wire_name: ClassVar[str] = "since_start"

    def init(self, spec: Spec) -> Tensor:
        return torch.zeros(spec.numel, dtype=spec.torch_dtype)

    def start(self, x: Tensor, spec: Spec) -> Tensor:
        return x.detach().to(spec.torch_dtype, copy=True)

    def memory(self, spec: Spec) -> tuple[()]:
        return ()

    def encode(self, x: Tensor, spec: Spec, state: Tensor, memory: Any, keys: Keys) -> tuple[Entries, tuple[()]]:
        x = x.to(spec.torch_dtype)
        places = torch.nonzero(raw_bits(x) != raw_bits(state)).reshape(-1)
        return Entries(places, x[places]), ()

    def decode(self, message: Entries, spec: Spec, state: Tensor) -> tuple[Tensor, Tensor]:
        x = large.clone(state)
        x[message.places] = message.values
        return x, state

    def write(self, message: Entries, spec: Spec, out: BitWriter) -> None:
        write_entries(*message, spec, out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> Entries:
        return Entries(*read_entries(spec, src))

    def write_state(self, state: Tensor, spec: Spec, out: BitWriter) -> None:
        write_vector(state, spec, out)

    def read_state(self, spec: Spec, src: BitReader) -> Tensor:
        return read_vector(spec, src)

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        pass

    def read_memory(self, spec: Spec, src: BitReader) -> tuple[()]:
        return ()

    def contract(self, spec: Spec) -> Contract:
        return Contract(lossless=True, omega=0.0, delta=1.0, bounded=True)

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls()]
