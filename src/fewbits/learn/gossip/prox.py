"""Proximal operators: the step that makes weights exactly zero."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from fewbits.checks import check_number
from fewbits.learn.exchange import AS_THEY_ARE
from fewbits.spec import TreeSpec


class Prox(ABC):
    """prox(z) = argmin over x of |x - z|^2 / 2 + eta * r(x), for a regulariser r. Frozen value, pure."""

    @abstractmethod
    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """z: (numel,), laid out as `spec` says; eta: the length of the gradient step before. Buffers stay."""

    @abstractmethod
    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        """r(x)."""


@dataclass(frozen=True)
class NoProx(Prox):
    """r = 0."""

    wire_name: ClassVar[str] = "no_prox"

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """z itself."""
        return z

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class L1(Prox):
    """r = mu |x|_1: x = sign(z) max(|z| - eta mu, 0), entry by entry."""

    wire_name: ClassVar[str] = "l1"

    mu: float  # 0 or more; larger: more zeros

    def __post_init__(self) -> None:
        _check("L1", self.mu)

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """Soft thresholding; with mu = 0, z itself."""
        if not self.mu:
            return z
        size = _parameters(spec)
        return torch.cat([softshrink(z[:size], eta * self.mu), z[size:]])

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        """mu |x|_1 of the parameters."""
        return self.mu * float(x[: _parameters(spec)].abs().sum(dtype=torch.float64))


@dataclass(frozen=True)
class GroupL1(Prox):
    """r = mu * sum over groups of sqrt(group size) |x_group|_2: whole groups become zero (Yuan and Lin 2006).

    A group is one output (a row of a weight matrix, a filter of a convolution); biases and other vectors are groups of
    one entry each.
    """

    wire_name: ClassVar[str] = "group_l1"

    mu: float  # 0 or more; larger: more groups become zero

    def __post_init__(self) -> None:
        _check("GroupL1", self.mu)

    def __call__(self, z: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """Every group shrinks by eta mu sqrt(size) in length; with mu = 0, z itself."""
        if not self.mu:
            return z
        parts = []
        for group in _groups(z, spec):
            norms = torch.linalg.vector_norm(group, dim=1, keepdim=True)
            less = eta * self.mu * math.sqrt(group.shape[1])
            parts.append((group * torch.clamp(1 - less / norms.clamp(min=1e-30), min=0)).reshape(-1))
        return torch.cat([*parts, z[_parameters(spec) :]])

    def penalty(self, x: Tensor, spec: TreeSpec) -> float:
        """mu times the weighted sum of norms."""
        norms = (math.sqrt(g.shape[1]) * float(torch.linalg.vector_norm(g, dim=1).sum()) for g in _groups(x, spec))
        return self.mu * sum(norms)


def _check(name: str, mu: float) -> None:
    check_number(f"{name}: mu", mu, "[0, inf)", numpy=True)


def _parameters(spec: TreeSpec) -> int:
    """How many numbers come before the buffers."""
    return sum(leaf.numel for name, leaf in spec if not name.startswith(AS_THEY_ARE))


def _groups(x: Tensor, spec: TreeSpec) -> list[Tensor]:
    """The parameters' groups, tensor by tensor.  # each (groups, size)"""
    leaves = [leaf for name, leaf in spec if not name.startswith(AS_THEY_ARE)]
    pieces = torch.split(x[: _parameters(spec)], [leaf.numel for leaf in leaves])
    return [
        piece.view(leaf.shape[0], -1) if len(leaf.shape) > 1 and leaf.numel else piece.view(-1, 1)
        for piece, leaf in zip(pieces, leaves, strict=True)
    ]
