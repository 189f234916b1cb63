"""Basis: a random D x d matrix as a value of a few words."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewbits.checks import check_one_of, check_whole
from fewbits.codecs.transforms.bases.fastfood import Fastfood
from fewbits.codecs.transforms.bases.gaussian import Gaussian
from fewbits.codecs.transforms.bases.randomised_hadamard import RandomisedHadamard
from fewbits.codecs.transforms.bases.sparse import Sparse
from fewbits.errors import LocalError
from fewbits.rng import Key

SCALES = ("orthonormal", "unbiased")


class Matrix(Protocol):
    """A basis with its random numbers drawn: O(D) of them."""

    @property
    def nbytes(self) -> int:
        """Memory that is held, bytes."""
        ...

    def expand(self, s: Tensor) -> Tensor:
        """A s, with columns of unit length."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """A^T x."""
        ...


_MATRICES: dict[str, Callable[[int, int, Key], Matrix]] = {
    "fastfood": Fastfood,
    "hadamard": RandomisedHadamard,
    "sparse": Sparse,
    "gaussian": Gaussian,
}
KINDS = tuple(_MATRICES)


@dataclass(frozen=True)
class Basis:
    """A random matrix A of numel x dim that everybody who has the key has, bit for bit; it is never formed.

    `orthonormal`: columns of unit length, A^T A = I (exactly for "hadamard" and "sparse", else nearly, when dim is much
    smaller than numel). `unbiased`: sqrt(numel/dim) times that, so that E[A A^T] = I. A step along A A^T g is numel/dim
    times as long with the second as with the first.

    >>> basis = Basis(1000, 16, Key(7))
    >>> s = torch.ones(16)
    >>> basis.project(basis.expand(s)).shape
    torch.Size([16])
    """

    numel: int  # D, rows: parameters
    dim: int  # d, columns: numbers that travel; 1..numel
    key: Key  # where the matrix is drawn from
    kind: str = "fastfood"  # or "hadamard", "sparse", "gaussian"
    scale: str = "orthonormal"  # or "unbiased"

    def __post_init__(self) -> None:
        check("Basis", self.dim, self.kind, self.scale)
        if self.dim > self.numel:
            raise LocalError(
                f"Basis: {self.numel} parameters have no subspace of dim = {self.dim}; give a dim "
                f"of at most that, such as intrinsic@dim={max(1, self.numel // 8)}"
            )

    @property
    def gain(self) -> float:
        """The length of a column: 1, or sqrt(numel/dim)."""
        return math.sqrt(self.numel / self.dim) if self.scale == "unbiased" else 1.0

    def expand(self, s: Tensor) -> Tensor:
        """A s, in float32, or float64 for float64.  # (dim,) -> (numel,)"""
        x = _MATRIX_CACHE.of(self).expand(_flat(s, self.dim, "Basis.expand"))
        return x if self.gain == 1 else x.mul_(self.gain)

    def moved(self, start: Tensor, s: Tensor) -> Tensor:
        """start + A s, in float32 on s's device.  # (numel,), (dim,) -> (numel,)"""
        matrix, start = _MATRIX_CACHE.of(self), _flat(start, self.numel, "Basis.moved")
        if isinstance(matrix, Sparse) and s.is_cpu and s.dtype == start.dtype == torch.float32:
            return matrix.moved(start, _flat(s, self.dim, "Basis.moved"), self.gain)
        return self.expand(s).add_(start)

    def project(self, x: Tensor) -> Tensor:
        """The adjoint, A^T x, in float32, or float64 for float64.  # (numel,) -> (dim,)"""
        s = _MATRIX_CACHE.of(self).project(_flat(x, self.numel, "Basis.project"))
        return s if self.gain == 1 else s * self.gain

    def captured(self, x: Tensor, inside: Tensor | None = None) -> float:
        """(D/d) |A^T x|^2 / |x|^2 with columns of unit length: 1 for an isotropic x; 0 when x is zero.

        More: the subspace happens to hold more of x than a random one would on average. `inside`: `project(x)`, where
        it is at hand.
        """
        norm2 = float(torch.linalg.vector_norm(x.detach(), dtype=torch.float64)) ** 2
        s = self.project(x) if inside is None else inside
        inside2 = (float(torch.linalg.vector_norm(s, dtype=torch.float64)) / self.gain) ** 2
        return self.numel / self.dim * inside2 / norm2 if norm2 else 0.0

    def effective_step(self, lr: float) -> float:
        """The mean length, over bases, of a step `lr` along A A^T g in the direction of g.

        It is lr d/D with columns of length 1, where <g, A A^T g> is d/D |g|^2 on average, and lr in the unbiased scale.
        """
        return lr * self.dim / self.numel * self.gain**2


def check(owner: str, dim: object, kind: object, scale: object) -> None:
    """Raise LocalError unless these may stand in a Basis of enough rows."""
    check_whole(f"{owner}: dim", dim, 1)
    check_one_of(f"{owner}: the basis", kind, KINDS)
    check_one_of(f"{owner}: scale", scale, SCALES)


def _flat(x: Tensor, n: int, owner: str) -> Tensor:
    if x.shape != (n,) or not x.dtype.is_floating_point:
        raise LocalError(f"{owner}: expected a float vector of {n} entries; got {x.dtype} of shape {tuple(x.shape)}")
    return x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


class _Cache:
    """The matrices used last, by value; a scale shares its matrix with the other."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.nbytes = 0  # memory of all that is kept, bytes, about 1 KiB for each object itself
        self._found: OrderedDict[tuple[int, int, Key, str], Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, basis: Basis) -> Matrix:
        """Draw it, or remember."""
        name = (basis.numel, basis.dim, basis.key, basis.kind)
        with self._lock:
            if name not in self._found:
                self._found[name] = _MATRICES[basis.kind](basis.numel, basis.dim, basis.key)
                self.nbytes += _nbytes(self._found[name])
            self._found.move_to_end(name)
            while len(self._found) > 1 and self.nbytes > self.most_bytes:
                self.nbytes -= _nbytes(self._found.popitem(last=False)[1])
            return self._found[name]


def _nbytes(matrix: Matrix) -> int:
    return matrix.nbytes + 1024


_MATRIX_CACHE = _Cache(256 * 2**20)
