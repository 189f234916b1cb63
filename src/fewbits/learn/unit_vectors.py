"""Unit vectors that describe a weight: spectral norm's estimates of its first singular vectors.

A mean of unit vectors is shorter than 1, and a weight divided by the singular value that such vectors give is too
large. So after every mean they are computed again, from the mean of the weights, by power iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

EPS = 1e-12  # torch's default
MOST_STEPS = 100  # of power iteration; from the vectors of the round before, it needs about five
STATISTICS = ("running_mean", "running_var")  # also of normalisations that others wrote, or that TorchScript holds
CLOSE = 1e-6  # the relative change of the singular value at which it ends


@dataclass(frozen=True, eq=False)
class SingularVectors:
    """The estimates u and v of a matrix's first singular vectors.

    Args:
        matrix: the matrix of now.  # () -> (rows, columns)
        vectors: u and v of now.  # () -> (rows,), (columns,)
        eps: the least length that a vector is divided by.
    """

    matrix: Callable[[], Tensor]
    vectors: Callable[[], tuple[Tensor, Tensor]]
    eps: float

    @torch.no_grad()
    def refresh(self) -> None:
        """Power iteration from the vectors of now, in place, until the singular value stands still."""
        weight, (u, v) = self.matrix(), self.vectors()
        if not bool(u.any()):
            u.fill_(1.0)
        sigma = 0.0
        for _ in range(MOST_STEPS):
            v.copy_(nn.functional.normalize(torch.mv(weight.t(), u), dim=0, eps=self.eps))
            product = torch.mv(weight, v)
            u.copy_(nn.functional.normalize(product, dim=0, eps=self.eps))
            before, sigma = sigma, float(torch.linalg.vector_norm(product))
            if abs(sigma - before) <= CLOSE * sigma:
                return


def unit_vectors(module: nn.Module) -> list[SingularVectors]:
    """Those of both kinds of `spectral_norm` in torch.

    Example:
        >>> len(unit_vectors(nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)))))
        1
    """
    found = named_vectors(module) if isinstance(module, NamedTensors) else []
    for part in module.modules():
        if isinstance(part, ParametrizationList):
            found += [_parametrized(part, i, one) for i, one in enumerate(part) if _estimates(one)]
        hooks = getattr(part, "_forward_pre_hooks", {}).values()
        found += [_hooked(part, hook) for hook in hooks if isinstance(hook, SpectralNorm)]
    return found


class NamedTensors(nn.Module):
    """A module that has the tensors of another one by their names, and nothing that computes with them."""


class Names(NamedTuple):
    """The names of a weight and of its singular vectors."""

    weight: str
    u: str
    v: str


def names_of_vectors(names: Collection[str]) -> list[Names]:
    """The singular vectors among a state_dict's names, of both kinds of `spectral_norm`.

    A parametrization with another one before it is left out, because its matrix is no tensor of the state_dict.

    >>> names_of_vectors(["w_orig", "w_u", "w_v"])
    [Names(weight='w_orig', u='w_u', v='w_v')]
    """
    found = []
    for u in names:
        start = u[: -len("u")]
        of = start.removesuffix("0._") + "original" if start.endswith(".0._") else start + "orig"
        if u.endswith("_u") and start + "v" in names and of in names:
            found.append(Names(of, u, start + "v"))
    return found


def named_vectors(module: NamedTensors) -> list[SingularVectors]:
    """Those that the names of its tensors show, where the shapes are those of a matrix and its vectors."""
    tensors = module.state_dict(keep_vars=True)
    found = []
    for names in names_of_vectors(tensors):
        weight, u, v = (tensors[name] for name in names)
        dims = [d for d, n in enumerate(weight.shape) if (n, weight.numel()) == (len(u), len(u) * len(v))]
        if u.ndim == v.ndim == 1 and len(u) and dims:
            found.append(SingularVectors(partial(_likeliest, weight, u, v, dims), lambda u=u, v=v: (u, v), EPS))
    return found


def _likeliest(weight: Tensor, u: Tensor, v: Tensor, dims: Sequence[int]) -> Tensor:
    """The matrix with one of these dimensions first: that of which u and v are singular vectors the most."""
    matrices = [weight.detach().movedim(d, 0).reshape(len(u), -1) for d in dims]
    return max(matrices, key=lambda matrix: float(u.detach() @ matrix @ v.detach()))


def known_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers of which it is known what becomes of them: running statistics, and unit vectors."""
    statistics = {
        id(x)
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)  # also InstanceNorm's and SyncBatchNorm's
        for x in part.buffers(recurse=False)
    }
    found = {name for name, x in module.named_buffers() if id(x) in statistics or name.endswith(STATISTICS)}
    return found | vector_names(module)


def vector_names(module: nn.Module) -> set[str]:
    """Names of the buffers that are unit vectors."""
    units = {id(x) for one in unit_vectors(module) for x in one.vectors()}
    return {name for name, x in module.named_buffers() if id(x) in units}


def _estimates(parametrization: nn.Module) -> TypeGuard[_SpectralNorm]:
    """Whether it is a spectral norm with vectors; that of a vector is its length, and needs none."""
    return isinstance(parametrization, _SpectralNorm) and hasattr(parametrization, "_u")


def _parametrized(of: ParametrizationList, place: int, norm: _SpectralNorm) -> SingularVectors:
    """`torch.nn.utils.parametrizations.spectral_norm`; other parametrizations may stand before it."""

    def matrix() -> Tensor:
        steps = list(of)[:place]
        with torch.no_grad():
            if of.is_tensor:
                x = of.original
            else:
                first, *steps = steps
                x = first(*(getattr(of, f"original{i}") for i in range(of.ntensors)))
            for step in steps:
                x = step(x)
            return norm._reshape_weight_to_matrix(x)

    return SingularVectors(matrix, lambda: (norm._u, norm._v), norm.eps)


def _hooked(part: nn.Module, norm: SpectralNorm) -> SingularVectors:
    """`torch.nn.utils.spectral_norm`."""

    def matrix() -> Tensor:
        return norm.reshape_weight_to_matrix(getattr(part, f"{norm.name}_orig").detach())

    return SingularVectors(matrix, lambda: (getattr(part, f"{norm.name}_u"), getattr(part, f"{norm.name}_v")), norm.eps)
