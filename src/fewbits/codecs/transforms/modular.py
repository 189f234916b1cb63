"""Modular: whole numbers modulo 2^bits, such as a `ModularEncoding` makes of a vector and masks hide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs.base import Keys, Transform
from fewbits.errors import LocalError
from fewbits.spec import Contract, Spec


@dataclass(frozen=True)
class Modular(Transform):
    """C(x) = round(x) mod 2^bits, in `bits` bits each: what is already such a number returns as it was.

    Made for the words of a `ModularEncoding`, in vectors of float64: float32 holds whole numbers up to 2^24 only. The values of
    other vectors are lost, so error feedback refuses it. Nothing shorter is possible where masks make words uniform.
    """

    wire_name: ClassVar[str] = "modular"

    bits: int = 32  # 2..48

    quantises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("Modular: bits", self.bits, 2, 48)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[None, Tensor]:
        """Numbers in 0..2^bits-1."""
        return None, torch.remainder(x.to(torch.float64).round(), 2.0**self.bits).to(torch.int64)

    def join(self, side: None, carrier: Tensor, spec: Spec) -> Tensor:
        """The same as floats."""
        return carrier.to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        """Integers."""
        return replace(spec, dtype="int64", low=0, high=2**self.bits - 1)

    def check(self) -> None:
        """Never under error feedback."""
        raise LocalError("Modular: error feedback cannot bring back what is lost modulo 2^bits; send words without it")

    def contract(self, spec: Spec) -> Contract:
        """No bound."""
        return Contract(payload_bits=0)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        """Of a length that half precision holds."""
        return [cls(8)]
