"""Delta: send differences to what the receiver already has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.codecs import large
from fewbits.codecs.base import Codec, Keys, wide
from fewbits.codecs.chain import chain
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.wrapper import Wrapper, check_dither, check_feedback, finite, read_vector, write_vector
from fewbits.coders import Rans
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True, repr=False)
class Delta(Wrapper):
    """Send differences to what the receiver already has.

    Both ends have the reference h. C(x - h) travels; h := h + C(x - h), which is also what arrives.

    Args:
        codec: C, any codec of one vector that shrinks what it misses. It needs no error feedback: what C misses is
            still in x - h next time.

    Raises:
        LocalError: the inner codec multiplies by more than it misses, has unbiased levels of 2 bits for a whole vector,
            or corrects its errors already; at encoding, the difference overflows.

    Example:
        >>> import torch
        >>> from fewbits import Delta, Key, Receiver, Sender, Spec, TopK
        >>> x, codec = torch.tensor([2.0, 1.5]), Delta(TopK(0.5))
        >>> sender, receiver = Sender(codec, Spec.of(x), Key(0)), Receiver(codec, Spec.of(x))
        >>> receiver.receive(sender.send(x)), sender.commit()
        (tensor([2., 0.]), None)
        >>> receiver.receive(sender.send(x)), sender.commit()
        (tensor([2.0000, 1.5000]), None)

    Source: EF21 (Richtarik et al. 2021) on gradients; the public copies of CHOCO (Koloskova et al. 2019) and the
    residuals of Malcom-PSGD on models; EF21-P (Gruntkowska et al. 2023) on a downlink.
    """

    wire_name: ClassVar[str] = "delta"

    forbids: ClassVar[tuple[str, ...]] = ("delta", "error_feedback")
    because: ClassVar[str] = "the difference to the reference already holds what was missed; it would be counted twice"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_feedback(self.codec)
        check_dither(self.codec, "Delta", 3, 64)

    def init(self, spec: Spec) -> tuple[Tensor, Any]:
        """(h = 0, the inner codec's)."""
        return torch.zeros(spec.numel, dtype=wide(spec).torch_dtype), self.codec.init(wide(spec))

    def start(self, x: Tensor, spec: Spec) -> tuple[Tensor, Any]:
        """(h = x, the inner codec's)."""
        return x.detach().to(wide(spec).torch_dtype).clone(), self.codec.init(wide(spec))

    @property
    def stateless(self) -> bool:
        return False

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        change = torch.sub(x, state[0], out=large.empty(spec.numel, state[0].dtype))
        finite(change, "Delta: the vector and the reference")
        return self.codec.encode(change, wide(spec), state[1], memory, keys)

    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        """h + C(x - h), and that is the new h."""
        change, inner = self.codec.decode(message, wide(spec), state[1])
        h = torch.add(state[0], change, out=large.empty(spec.numel, state[0].dtype))
        return h.to(spec.torch_dtype), (h, inner)

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        write_vector(state[0], wide(spec), out)
        self.codec.write_state(state[1], wide(spec), out)

    def read_state(self, spec: Spec, src: BitReader) -> tuple[Tensor, Any]:
        return read_vector(wide(spec), src), self.codec.read_state(wide(spec), src)

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        return self.codec.observe(message, memory)

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls(chain(TopK(0.1))), cls(chain(Quantize(bits=8), Rans()))]
