"""LastValue: keep the last decoded vector where a snapshot can find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.codecs.base import Codec, Keys, wide
from fewbits.codecs.chain import chain
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.wrappers.wrapper import Wrapper, read_vector, write_vector
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True, repr=False)
class LastValue(Wrapper):
    """Send C(x), and let the shared state be the last C(x), so that a snapshot holds the value.

    For the tensors of a broadcast that travel whole, such as running statistics, beside others that travel as
    differences.

    Args:
        codec: C, any codec of one vector.

    Raises:
        LocalError: codec is no codec of one vector.

    Example:
        >>> from fewbits import Raw, Spec
        >>> from fewbits.codecs import LastValue
        >>> LastValue(Raw()).init(Spec((2,)))
        (tensor([0., 0.]), ())

    Source: ours.
    """

    wire_name: ClassVar[str] = "last_value"

    @property
    def stateless(self) -> bool:
        return False

    def init(self, spec: Spec) -> tuple[Tensor, Any]:
        return torch.zeros(spec.numel, dtype=wide(spec).torch_dtype), self.codec.init(wide(spec))

    def start(self, x: Tensor, spec: Spec) -> tuple[Tensor, Any]:
        return x.detach().to(wide(spec).torch_dtype).clone(), self.codec.init(wide(spec))

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        return self.codec.encode(x.to(wide(spec).torch_dtype), wide(spec), state[1], memory, keys)

    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        x, inner = self.codec.decode(message, wide(spec), state[1])
        return x.to(spec.torch_dtype), (x, inner)

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        write_vector(state[0], wide(spec), out)
        self.codec.write_state(state[1], wide(spec), out)

    def read_state(self, spec: Spec, src: BitReader) -> tuple[Tensor, Any]:
        return read_vector(wide(spec), src), self.codec.read_state(wide(spec), src)

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        return self.codec.observe(message, memory)

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls(chain(Raw()))]
