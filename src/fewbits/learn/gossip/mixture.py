"""Mixture: the weighted sum of the neighbours' public vectors, kept up to date frame by frame."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewbits.learn.gossip.vectors import Vectors

ROUNDING = 2.0**-21  # of a buffer's value: more than the rounding of a few products leaves


class Mixture:
    """Sum over neighbours j of w_ij public_j, in `vectors.mixture`; `weights` are the w_ij in the sum."""

    def __init__(self, vectors: Vectors, weights: Mapping[int, float], parameters: int) -> None:
        """`parameters`: how many numbers of a vector are parameters; float buffers lie behind them."""
        self._vectors, self.weights, self._parameters = vectors, dict(weights), parameters

    def start(self, public: Tensor) -> None:
        """Let every neighbour's public vector be this one, (S,)."""
        vectors = self._vectors
        for copy in vectors.private_copies().values():
            copy.copy_(public)
        for weight in self.weights.values():
            vectors.mixture.add_(public, alpha=weight)

    def add(self, j: int, increment: Tensor) -> None:
        """Add an increment (S,) to neighbour j's public vector."""
        self._add_weighted(j, increment)
        if j in self._vectors.copies and j not in self._vectors.borrowed:
            self._vectors.copies[j].add_(increment)

    def replace(self, j: int, public: Tensor) -> None:
        """Replace neighbour j's public vector (S,); without copies, the sum must not contain the old one."""
        if j in self._vectors.copies:
            self._vectors.private_copy(j).copy_(public)
            self.weights = {}  # so that `reweigh` sums again
        else:
            self._add_weighted(j, public)

    def _add_weighted(self, j: int, vector: Tensor) -> None:
        if weight := self.weights.get(j, 0.0):
            self._vectors.mixture.add_(vector, alpha=weight)

    def clear(self) -> None:
        """Begin an empty sum."""
        self._vectors.mixture.zero_()

    def reweigh(self, weights: Mapping[int, float]) -> None:
        """Use these weights; sum again from the copies when they differ from the old ones."""
        if weights == self.weights:
            return
        self.clear()
        for j, weight in weights.items():
            self._vectors.mixture.add_(self._vectors.copies[j], alpha=weight)
        self.weights = dict(weights)

    def consensus(self) -> Tensor:
        """Sum over neighbours j of w_ij (public_j - public_i).  # (S,)

        What rounding leaves of buffers that are equal at all nodes becomes zero: else a constant would drift.
        """
        found = torch.sub(self._vectors.mixture, self._vectors.public, alpha=sum(self.weights.values()))
        if self._parameters < len(found):
            buffers, public = found[self._parameters :], self._vectors.public[self._parameters :]
            buffers[buffers.abs() <= ROUNDING * public.abs()] = 0
        return found
