"""Proximal operators: steps that make weights exactly zero."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from fewbits.checks import check_factor
from fewbits.learn.shared_values import AS_THEY_ARE
from fewbits.spec import TreeSpec


class Prox(ABC):
    """prox(z) = argmin over x of |x - z|^2 / 2 + eta * r(x), for a regulariser r."""

    @abstractmethod
    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """prox(z).

        Args:
            z: parameters, then buffers, which do not change, (S,).
            eta: learning rate times local steps.
            spec: names and shapes of the S numbers.
        """

    @abstractmethod
    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        """r(x)."""

    @property
    def is_identity(self) -> bool:
        """Whether prox(z) = z for every eta."""
        return False


@dataclass(frozen=True)
class NoProx(Prox):
    """No regulariser: r = 0 and prox(z) = z.

    >>> import torch
    >>> from fewbits import Spec
    >>> z = torch.tensor([0.5, -1.0])
    >>> NoProx()(z, 0.1, Spec.of({"w": z})).tolist()
    [0.5, -1.0]
    """

    wire_name: ClassVar[str] = "no_prox"

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        return z

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        return 0.0

    @property
    def is_identity(self) -> bool:
        return True


@dataclass(frozen=True)
class L1(Prox):
    """The l1 regulariser r = mu |x|_1, which makes single weights zero.

    prox(z) = sign(z) max(|z| - eta mu, 0), entry by entry.

    Args:
        mu: strength, 0 or more; a larger value gives more zeros.

    Raises:
        LocalError: `mu` is negative or not finite.

    >>> import torch
    >>> from fewbits import Spec
    >>> z = torch.tensor([0.5, -2.0, 0.0])
    >>> L1(10.0)(z, 0.1, Spec.of({"w": z})).tolist()
    [0.0, -1.0, 0.0]

    Source: soft thresholding, Daubechies et al. 2004. Buffers are not regularised.
    """

    wire_name: ClassVar[str] = "l1"

    mu: float

    def __post_init__(self) -> None:
        _check("L1", self.mu)

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        if not self.mu:
            return z
        size = _parameters(spec)
        return torch.cat([softshrink(z[:size], eta * self.mu), z[size:]])

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        return self.mu * float(x[: _parameters(spec)].abs().sum(dtype=torch.float64))

    @property
    def is_identity(self) -> bool:
        return not self.mu


@dataclass(frozen=True)
class GroupL1(Prox):
    """The group-lasso regulariser r = mu * sum_g sqrt(size_g) |x_g|_2, which makes whole outputs zero.

    prox(z)_g = z_g max(1 - eta mu sqrt(size_g) / |z_g|_2, 0). A group g is a row of a weight matrix or a filter of a
    convolution. In a vector, such as a bias, every entry is a group.

    Args:
        mu: strength, 0 or more; a larger value makes more groups zero.

    Raises:
        LocalError: `mu` is negative or not finite.

    >>> import torch
    >>> from fewbits import Spec
    >>> z = torch.tensor([0.1, 0.1, 3.0, 4.0])
    >>> GroupL1(1.0)(z, 0.5, Spec.of({"w": z.view(2, 2)}))[:2].tolist()
    [0.0, 0.0]

    Source: Yuan and Lin 2006. Buffers are not regularised.
    """

    wire_name: ClassVar[str] = "group_l1"

    mu: float

    def __post_init__(self) -> None:
        _check("GroupL1", self.mu)

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        if not self.mu:
            return z
        parts = []
        for group in _groups(z, spec):
            norms = torch.linalg.vector_norm(group, dim=1, keepdim=True)
            shrinkage = eta * self.mu * math.sqrt(group.shape[1])
            parts.append((group * torch.clamp(1 - shrinkage / norms.clamp(min=1e-30), min=0)).reshape(-1))
        return torch.cat([*parts, z[_parameters(spec) :]])

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        norms = (math.sqrt(g.shape[1]) * float(torch.linalg.vector_norm(g, dim=1).sum()) for g in _groups(x, spec))
        return self.mu * sum(norms)

    @property
    def is_identity(self) -> bool:
        return not self.mu


def _check(name: str, mu: float) -> None:
    check_factor(f"{name}: mu", mu, "[0, inf)")


def _parameters(spec: TreeSpec) -> int:
    """The number of parameters; buffers follow them."""
    return sum(leaf.numel for name, leaf in spec if not name.startswith(AS_THEY_ARE))


def _groups(x: Tensor, spec: TreeSpec) -> list[Tensor]:
    """The groups of every parameter tensor.  # each (groups, size)"""
    leaves = [leaf for name, leaf in spec if not name.startswith(AS_THEY_ARE)]
    pieces = torch.split(x[: _parameters(spec)], [leaf.numel for leaf in leaves])
    return [
        piece.view(leaf.shape[0], -1) if len(leaf.shape) > 1 and leaf.numel else piece.view(-1, 1)
        for piece, leaf in zip(pieces, leaves, strict=True)
    ]
