"""Predict: the last vector, scaled, as a prediction of this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.codecs.base import Codec, Keys, Partial, wide
from fewbits.codecs.chain import Chain, chain
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.overlap import Overlap
from fewbits.codecs.wrappers.wrapper import Wrapper, finite, nested, read_optional, write_optional
from fewbits.coders import Rans
from fewbits.errors import WireError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter
from fewbits.wire.values import read_scalar, write_scalar


class PredictMessage(NamedTuple):
    """A coefficient (None: nothing to predict from) and what it misses (None: silent)."""

    rho: float | None
    rest: Any | None


@dataclass(frozen=True, repr=False)
class Predict(Wrapper):
    """Predict the vector as a multiple of the last one, and send what the prediction misses.

    h is the last decoded vector, at both ends; rho = <u, h> / |h|^2. rho and C(u - rho h) travel, or rho alone where
    |u - rho h|^2 <= silent * |u|^2. rho h + C(u - rho h) arrives, and is the new h.

    Args:
        codec: C, any codec of one vector.
        silent: in [0, 1], a share of |u|^2; larger: only rho travels more often; 0 always sends the rest.

    Raises:
        LocalError: silent is outside [0, 1]; the inner codec has a last vector or corrects its errors already (error
            feedback belongs around this one).

    Example:
        >>> import torch
        >>> from fewbits import Key, Predict, Raw, Sender, Spec
        >>> sender = Sender(Predict(Raw(), silent=0.1), Spec((1000,)), Key(0))
        >>> len(sender.send(torch.ones(1000))), sender.commit()
        (4017, None)
        >>> len(sender.send(2 * torch.ones(1000))), sender.commit()  # two bits, and rho = 2
        (21, None)

    Source: ours. It contains the recycling of LBGM (C silent: Azam et al. 2022), EF21 (rho = 1: Richtarik et al. 2021)
    and the predicted frames of video coding.
    """

    wire_name: ClassVar[str] = "predict"

    silent: float = 0.0

    forbids: ClassVar[tuple[str, ...]] = ("predict", "look_back", "delta", "error_feedback")
    because: ClassVar[str] = (
        "what it predicts from is already the last decoded vector; feed errors back outside, not inside"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Predict: silent", self.silent, "[0, 1]")
        object.__setattr__(self, "silent", float(self.silent))

    @property
    def stateless(self) -> bool:
        return False

    def init(self, spec: Spec) -> tuple[Tensor | None, Any]:
        """(nothing to predict from, the inner codec's)."""
        return None, self.codec.init(wide(spec))

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[PredictMessage, Any]:
        """rho and C(u - rho*h), or rho alone."""
        h, inner = state
        x = x.to(wide(spec).torch_dtype)
        overlap = Overlap.of(x, h) if h is not None else None
        rho = overlap.rho if overlap else None
        if overlap and rho is not None and self.silent > 0 and overlap.missed(rho) <= self.silent * overlap.xx:
            return PredictMessage(rho, None), memory
        rest = x if h is None or rho is None else finite(x - h * rho, "Predict: the vector and its prediction")
        message, memory = self.codec.encode(rest, wide(spec), inner, memory, keys)
        return PredictMessage(rho, message), memory

    def decode(self, message: PredictMessage, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        """rho*h + C, and that is the new h."""
        h, inner = state
        if message.rho is not None and h is None:
            raise WireError("Predict: the frame refers to a last vector, and there is none")
        # Two roundings, not a fused multiply-add, so that all machines agree.
        x = torch.zeros(spec.numel, dtype=wide(spec).torch_dtype) if message.rho is None else h * message.rho
        if message.rest is not None:
            rest, inner = self.codec.decode(message.rest, wide(spec), inner)
            x = x + rest
        return x.to(spec.torch_dtype), (x, inner)

    def partial(self, message: PredictMessage, spec: Spec, state: Any) -> tuple[Partial, Any]:
        """Over a sparse codec, h is 0 where nothing was ever sent: what is sent are the other entries."""
        x, state = self.decode(message, spec, state)
        support = x.nonzero().reshape(-1) if _sparse(self.codec) else None
        return Partial(x if support is None else x[support], support), state

    def write(self, message: PredictMessage, spec: Spec, out: BitWriter) -> None:
        """Two bits for what follows, rho as float32, then the inner message."""
        with out.section("rho"):
            out.write(message.rho is not None, 1)
            out.write(message.rest is not None, 1)
            if message.rho is not None:
                write_scalar(message.rho, out)
        if message.rest is not None:
            self.codec.write(message.rest, wide(spec), out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> PredictMessage:
        with src.section("rho"):
            predicted, rest = src.read(1), src.read(1)
            rho = read_scalar(src) if predicted else None
        if not (predicted or rest):
            raise WireError("Predict: the frame holds neither a coefficient nor a vector")
        return PredictMessage(rho, self.codec.read(wide(spec), src, common) if rest else None)

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        write_optional(state[0], wide(spec), out)
        self.codec.write_state(state[1], wide(spec), out)

    def read_state(self, spec: Spec, src: BitReader) -> tuple[Tensor | None, Any]:
        return read_optional(wide(spec), src), self.codec.read_state(wide(spec), src)

    def observe(self, message: PredictMessage, memory: Any | None = None) -> dict[str, float]:
        """recycled: 1 when only rho was sent."""
        return {"recycled": float(message.rest is None)}

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        stack = chain(TopK(0.1), Quantize(bits=4), Rans())
        return [cls(stack), cls(stack, silent=0.5)]


def _sparse(codec: Codec) -> bool:
    """Whether a message holds a part of the entries only."""
    chains = [part for part in nested(codec) if isinstance(part, Chain)]
    return any(part.transforms and part.transforms[0].sparse for part in chains)
