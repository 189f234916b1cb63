"""ErrorFeedback: what was not sent is added to the next vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number
from fewbits.codecs import large
from fewbits.codecs.base import Codec, Keys, Partial, wide
from fewbits.codecs.chain import Chain, chain
from fewbits.codecs.same_memory import same_memory
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.sign import Sign
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.wrapper import Wrapper, check_dither, check_feedback, finite, read_vector, write_vector
from fewbits.coders import Rans
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True, repr=False)
class ErrorFeedback(Wrapper):
    """Add what was not sent to the next vector.

    With u = x + decay * e, send C(u); then e := u - C(u). With decay = 1, what stays and what is sent sum to what came
    in. Below 1, e is a momentum of what was not sent: m := decay * m + x; send C(m); m := m - C(m). Only the sender has
    e.

    Args:
        codec: C, any codec of one vector that shrinks what it misses.
        decay: share of e that is added to the next vector, in (0, 1]; smaller: old errors are forgotten sooner.

    Raises:
        LocalError: decay is outside (0, 1]; the inner codec multiplies by more than it misses
            (`RandK(mode="unbiased")`), has unbiased levels of 2 or 3 bits for a whole vector, or corrects its errors
            already (`ErrorFeedback`, `Delta`); at encoding, the sum overflows.

    Example:
        >>> import torch
        >>> from fewbits import ErrorFeedback, Key, Receiver, Sender, Spec, TopK
        >>> x, codec = torch.tensor([2.0, 1.5]), ErrorFeedback(TopK(0.5))
        >>> sender, receiver = Sender(codec, Spec.of(x), Key(0)), Receiver(codec, Spec.of(x))
        >>> receiver.receive(sender.send(x)), sender.commit()
        (tensor([2., 0.]), None)
        >>> receiver.receive(sender.send(x)), sender.commit()
        (tensor([0., 3.]), None)

    Source: Seide et al. 2014; Stich et al. 2018; the decay, DeMo (arXiv 2411.19870) and SparseLoCo (arXiv 2508.15706).
    """

    wire_name: ClassVar[str] = "error_feedback"

    decay: float = 1.0

    forbids: ClassVar[tuple[str, ...]] = ("error_feedback", "delta")
    because: ClassVar[str] = "the same residual would be added twice, and grow; keep one of them"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ErrorFeedback: decay", self.decay, "(0, 1]")
        object.__setattr__(self, "decay", float(self.decay))
        check_feedback(self.codec)
        check_dither(self.codec, "error feedback", 4, 16)

    def init(self, spec: Spec) -> Any:
        return self.codec.init(wide(spec))

    def start(self, x: Tensor, spec: Spec) -> Any:
        return self.codec.start(x.to(wide(spec).torch_dtype), wide(spec))

    def memory(self, spec: Spec) -> tuple[Tensor, Any]:
        """(e = 0, the inner codec's)."""
        return torch.zeros(spec.numel, dtype=wide(spec).torch_dtype), self.codec.memory(wide(spec))

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        """C(x + decay * e), and the new e."""
        residual, inner = memory
        u = large.empty(spec.numel, residual.dtype)
        values = x.detach().to(residual.dtype).numpy()
        if kernels.feedback.add_decayed(values, residual.numpy(), self.decay, u.numpy()):
            finite(u, "ErrorFeedback: the vector and the residual")
        message, inner = self.codec.encode(u, wide(spec), state, inner, keys)
        return message, (self._missed(u, message, spec, state, inner), inner)

    def _missed(self, u: Tensor, message: Any, spec: Spec, state: Any, inner: Any) -> Tensor:
        """u - C(u), in the memory of one of them where nothing else lies there."""
        if isinstance(self.codec, Chain) and self.codec.sparse and not same_memory(u, (message, inner)):
            sent, _ = self.codec.partial(message, wide(spec), state)
            assert sent.support is not None
            return u.index_add_(0, sent.support, sent.values, alpha=-sent.scale)
        u_hat, after = self.codec.decode(message, wide(spec), state)
        free = not same_memory(u_hat, (u, message, inner, state, after))
        return torch.sub(u, u_hat, out=u_hat if free else large.empty(spec.numel, u.dtype))

    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        x, state = self.codec.decode(message, wide(spec), state)
        return x.to(spec.torch_dtype), state

    def contract(self, spec: Spec) -> Contract:
        """What C gives stays finite here too: the sum that it is given was checked."""
        inner = self.codec.contract(wide(spec))
        return Contract(portable=inner.portable, bounded=inner.bounded and wide(spec) == spec)

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        self.codec.write_state(state, wide(spec), out)

    def read_state(self, spec: Spec, src: BitReader) -> Any:
        return self.codec.read_state(wide(spec), src)

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        write_vector(memory[0], wide(spec), out)
        self.codec.write_memory(memory[1], wide(spec), out)

    def read_memory(self, spec: Spec, src: BitReader) -> tuple[Tensor, Any]:
        return read_vector(wide(spec), src), self.codec.read_memory(wide(spec), src)

    def partial(self, message: Any, spec: Spec, state: Any) -> tuple[Partial, Any]:
        return self.codec.partial(message, wide(spec), state)

    def follow(self, message: Any, spec: Spec, state: Any) -> Any:
        return self.codec.follow(message, wide(spec), state)

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        return self.codec.complete(total, side, wide(spec))

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        return self.codec.observe(message, None if memory is None else memory[1])

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [
            cls(chain(TopK(0.1), Quantize(bits=4), Rans())),
            cls(chain(Sign())),
            cls(chain(TopK(0.25, chunk=8), Sign(sizes=2), Rans()), decay=0.95),
        ]
