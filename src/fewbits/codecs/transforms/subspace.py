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
    """Send a vector's coordinates in a random subspace that both ends draw.

    s = A^T x travels, and A s = A A^T x arrives; A is D x dim and never sent. `orthonormal`: A^T A = I. `unbiased`:
    A A^T x is D/dim times as long, E[A A^T] = I. A vector of fewer than `dim` entries travels as it is.

    Args:
        dim: d, numbers that travel; larger: more bytes, more of the vector arrives.
        seed: of A, the same in every round; None: a fresh A from each frame's common key.
        basis: "fastfood", "hadamard", "sparse", or "gaussian" (for small tests).
        scale: "orthonormal" or "unbiased".

    Raises:
        LocalError: an option is none of these; at encoding, a coordinate leaves the range of its type.

    Example:
        >>> import torch
        >>> from fewbits import Key, Sender, Spec, Subspace
        >>> len(Sender(Subspace(16), Spec((1000,)), Key(0)).send(torch.ones(1000)))  # 16 header bytes, 16 numbers
        80

    Source: arXiv 2112.02656; Li et al. 2018. Different here: all senders share A, so their messages are added as they
    are and expanded once; half-precision vectors have float32 coordinates, which `Raw("bf16")` after it may narrow.
    """

    wire_name: ClassVar[str] = "subspace"

    dim: int
    seed: int | None = 7
    basis: str = "fastfood"
    scale: str = "orthonormal"

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("Subspace", self.dim, self.basis, self.scale)
        if self.seed is not None:
            check_whole("Subspace: seed", self.seed, hint=", or None for a fresh basis")

    @property
    def projection(self) -> bool:
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
        s = carrier.to(wide(spec).torch_dtype)
        return (s if self.whole(spec) else self.matrix(spec, side).expand(s)).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return replace(wide(spec), shape=(min(self.dim, spec.numel),), segments=())

    def key(self, common: Key) -> Key:
        """Where A is drawn from."""
        return (common if self.seed is None else Key(self.seed)).fold("subspace")

    def whole(self, spec: Spec) -> bool:
        """Whether the vector is too short to have such a subspace."""
        return spec.numel < self.dim

    def read(self, spec: Spec, src: BitReader, common: Key) -> Key:
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
