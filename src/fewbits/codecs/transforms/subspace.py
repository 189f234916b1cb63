"""Subspace: a vector as its coordinates in a random subspace that both ends draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.bases import Basis
from fewbits.codecs.transforms.bases.basis import check
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader

ORTHONORMAL = ("hadamard", "sparse")  # bases that are so exactly


@dataclass(frozen=True)
class Subspace(Transform):
    """Send A^T x, `dim` numbers, and receive A A^T x: A a random basis that is never sent (arXiv 2112.02656).

    Everything is linear, and all senders share A, so their messages are added as they are and expanded once. With a
    `seed` the subspace stays the same for ever; with None a fresh one comes from the frame's common key, so that a mean
    over rounds sees every direction. `unbiased` makes E[A A^T] = I; `orthonormal` is D/dim times as short, and with the
    bases "hadamard" and "sparse" an orthogonal projection. A vector of fewer than `dim` entries travels as it is.
    Half-precision vectors have float32 coordinates, whose range they would leave; narrow them by Raw("bf16") after.
    """

    wire_name: ClassVar[str] = "subspace"

    dim: int  # d, numbers that travel; larger: more bytes, more of the vector
    seed: int | None = 7  # None: another subspace in each frame
    basis: str = "fastfood"  # or "hadamard", "sparse", "gaussian" (small tests)
    scale: str = "orthonormal"  # or "unbiased"

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("Subspace", self.dim, self.basis, self.scale)
        if self.seed is not None:
            check_whole("Subspace: seed", self.seed, hint=", or None for a fresh basis")

    @property
    def projection(self) -> bool:
        """With an exactly orthonormal basis."""
        return self.scale == "orthonormal" and self.basis in ORTHONORMAL

    def matrix(self, spec: Spec, key: Key) -> Basis:
        """A, for a vector of this Spec and the side."""
        return Basis(spec.numel, self.dim, key, self.basis, self.scale)

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Key, Tensor]:
        """A^T x; the side is the key of A.

        Raises LocalError when a coordinate leaves the range of its type.
        """
        key = self.key(keys.common)
        if self.whole(spec):
            return key, x.to(wide(spec).torch_dtype)
        s = self.matrix(spec, key).project(x)
        if not bool(torch.isfinite(s).all()):
            raise LocalError(
                f"Subspace: coordinates of entries up to {float(x.abs().max()):.4g} in the {self.scale} scale "
                f"leave the range of {s.dtype}; scale the vector down"
            )
        return key, s

    def join(self, side: Key, carrier: Tensor, spec: Spec) -> Tensor:
        """A s."""
        s = carrier.to(wide(spec).torch_dtype)
        return (s if self.whole(spec) else self.matrix(spec, side).expand(s)).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        """`dim` coordinates."""
        return replace(wide(spec), shape=(min(self.dim, spec.numel),), segments=())

    def key(self, common: Key) -> Key:
        """Where A is drawn from."""
        return (common if self.seed is None else Key(self.seed)).fold("subspace")

    def whole(self, spec: Spec) -> bool:
        """Whether the vector is too short to have such a subspace."""
        return spec.numel < self.dim

    def read(self, spec: Spec, src: BitReader, common: Key) -> Key:
        """Nothing is read."""
        return self.key(common)

    def contract(self, spec: Spec) -> Contract:
        """A fresh exactly orthonormal basis: delta = d/D, or omega = D/d - 1. Else linearity alone is promised.

        In a fixed subspace what is orthogonal to it is lost whole; Fastfood and Gaussian columns are only nearly
        orthogonal.
        """
        if self.whole(spec):
            return Contract(lossless=True, omega=0.0, delta=1.0, payload_bits=0, linear=True)
        if self.seed is not None or self.basis not in ORTHONORMAL or wide(spec) != spec:
            return Contract(payload_bits=0, linear=True)
        if self.scale == "unbiased":
            return Contract(omega=spec.numel / self.dim - 1, payload_bits=0, linear=True)
        return Contract(delta=self.dim / spec.numel, payload_bits=0, linear=True)

    def check(self) -> None:
        """A A^T of the unbiased scale has eigenvalues near D/dim: feedback of its error diverges."""
        if self.scale == "unbiased":
            raise LocalError(
                f"{self!r} multiplies by D/dim and is not a contraction, so feedback of its error diverges; "
                'use Subspace(scale="orthonormal")'
            )

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        """All bases, fixed and fresh."""
        return [
            cls(8),
            cls(8, seed=None),
            cls(1, seed=None, scale="unbiased"),
            cls(8, seed=None, basis="hadamard"),
            cls(8, seed=None, basis="hadamard", scale="unbiased"),
            cls(8, seed=None, basis="sparse"),
            cls(16, seed=None, basis="sparse", scale="unbiased"),
            cls(16, basis="gaussian"),
        ]
