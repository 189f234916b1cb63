"""Modular: whole numbers modulo 2^bits, such as a `ModularEncoding` makes of a vector and masks hide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs.base import Keys, Transform
from fewbits.errors import LocalError
from fewbits.spec import Contract, Spec


@dataclass(frozen=True)
class Modular(Transform):
    """Send whole numbers modulo 2^bits.

    C(x) = round(x) mod 2^bits. Numbers that are in 0..2^bits-1 already arrive as they were.

    Made for what a `ModularEncoding` gives, in vectors of float64: float32 holds whole numbers up to 2^24 only.

    Args:
        bits: 2..48, of each number on the wire.

    Raises:
        LocalError: bits is outside 2..48; it stands under error feedback, which cannot bring back what is lost.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec
        >>> from fewbits.codecs import Modular
        >>> x = torch.tensor([5.0, 255.0, 257.0])
        >>> Receiver(Modular(bits=8), Spec.of(x)).receive(Sender(Modular(bits=8), Spec.of(x), Key(0)).send(x))
        tensor([  5., 255.,   1.])

    Source: the finite ring of Bonawitz et al. 2017. Different here: nothing shorter is tried, because masks make the
    numbers uniform.
    """

    wire_name: ClassVar[str] = "modular"

    bits: int = 32

    quantises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("Modular: bits", self.bits, 2, 48)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[None, Tensor]:
        """Numbers in 0..2^bits-1."""
        return None, torch.remainder(x.to(torch.float64).round(), 2.0**self.bits).to(torch.int64)

    def join(self, side: None, carrier: Tensor, spec: Spec) -> Tensor:
        return carrier.to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(dtype="int64", low=0, high=2**self.bits - 1)

    def check(self) -> None:
        raise LocalError("Modular: error feedback cannot bring back what is lost modulo 2^bits; send words without it")

    def contract(self, spec: Spec) -> Contract:
        return Contract(payload_bits=0)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(8)]
