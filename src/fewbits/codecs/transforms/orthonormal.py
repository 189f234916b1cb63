"""Orthonormal: what Rotate and DCT have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from fewbits.codecs.base import Transform, wide
from fewbits.spec import Contract, Spec


class Orthonormal(Transform):
    """The vector in another orthonormal basis: as many numbers, end to end."""

    linear: ClassVar[bool] = True

    @property
    def projection(self) -> bool:
        return True

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return wide(spec).derive(shape=(spec.numel,), segments=())

    def contract(self, spec: Spec) -> Contract:
        """Nothing is lost but by rounding; for half types rounding is coarse, and linearity alone is promised."""
        if wide(spec) != spec:
            return Contract(payload_bits=0, linear=True)
        return Contract(omega=0.0, delta=1.0, payload_bits=0, linear=True)
