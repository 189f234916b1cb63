"""The entrywise (Hadamard) product of two low-rank matrices, with its own backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]  # X, Y and, in Tucker form, T of one half


def hadamard(left1: Tensor, right1: Tensor, left2: Tensor, right2: Tensor, shift: float = 0.0) -> Tensor:
    """Multiply two low-rank matrices entry by entry.

    ``(left1 @ right1) * (left2 @ right2 + shift)``. Second derivatives, `torch.func` and autocast work; under autocast
    the product is computed in the precision of the factors.

    Args:
        left1: (m, r) float, the left factor of the first half.
        right1: (r, n) float, its right factor.
        left2: (m, s) float, the left factor of the second half.
        right2: (s, n) float, its right factor.
        shift: added to the second half: 0 for FedPara, 1 for pFedPara.

    Returns:
        (m, n) float.

    Example:
        >>> one, two = torch.ones(2, 1), torch.full((1, 3), 2.0)
        >>> hadamard(one, two, one, two, shift=1.0)
        tensor([[6., 6., 6.],
                [6., 6., 6.]])

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, Proposition 1.
    """
    return hadamard_of_halves((left1, right1.t()), (left2, right2.t()), shift)


def hadamard_of_halves(one: Parts, two: Parts, shift: float = 0.0) -> Tensor:
    """Multiply two halves entry by entry, of X, Y and in Tucker form T each.  # (rows, columns*taps)"""
    with without_autocast(one[0]):
        # torch.func needs another, slower kind of Function; a compiler finds the best order itself.
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            return _by_autograd(one, two, shift)
        return _Hadamard.apply(shift, *one, *two)  # pyright: ignore[reportReturnType]


def right(y: Tensor, core: Tensor | None = None) -> Tensor:
    """Return the right factor of a half: Y^T, or the core times Y.  # (r, columns*taps)"""
    if core is None:
        return y.t()
    r, columns = len(core), len(y)
    return (_by_tap(core) @ y.t()).view(r, -1, columns).transpose(1, 2).reshape(r, -1)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off: a weight composed in bfloat16 would carry the rounding of both halves."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


class _Hadamard(torch.autograd.Function):
    """One node for both halves, cores included: in a small layer the nodes of a graph cost more than the products."""

    @staticmethod
    def forward(ctx: Any, shift: float, *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        one, two = _halves(parts)
        right1, right2 = right(*one[1:]), right(*two[1:])
        half1, half2 = one[0] @ right1, _shifted(two[0] @ right2, shift)
        ctx.save_for_backward(*parts, right1, right2, half1, half2)
        ctx.shift = shift
        return half1 * half2  # both halves are saved: computing them again costs a third more products

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *parts, right1, right2, half1, half2 = ctx.saved_tensors
        one, two = _halves(parts)
        with without_autocast(parts[0]):
            if torch.is_grad_enabled():  # a second derivative needs the halves as functions of the factors
                return None, *gradients(_by_autograd(one, two, ctx.shift), parts, ctx.needs_input_grad[1:], grad)
            by = grad * half2
            found = _back(one, right1, by)
            torch.mul(grad, half1, out=by)  # in place: new memory pages may cost more than the product
            return None, *found, *_back(two, right2, by)


def gradients(of: Tensor, parts: Sequence[Tensor], needed: Sequence[bool], grad: Tensor) -> list[Tensor | None]:
    """Gradients of those parts that need one, which may be differentiated again."""
    wanted = [part for part, needs in zip(parts, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(of, wanted, grad, create_graph=True))
    return [next(found) if needs else None for needs in needed]


def _halves(parts: Sequence[Tensor]) -> tuple[Parts, Parts]:
    each = len(parts) // 2
    return tuple(parts[:each]), tuple(parts[each:])


def _by_autograd(one: Parts, two: Parts, shift: float) -> Tensor:
    return (one[0] @ right(*one[1:])) * _shifted(two[0] @ right(*two[1:]), shift)


def _shifted(product: Tensor, shift: float) -> Tensor:
    return product.add_(shift) if shift else product


def _by_tap(core: Tensor) -> Tensor:
    """The core as a matrix.  # (r, s, ...) -> (r*taps, s)"""
    return core.flatten(2).transpose(1, 2).reshape(-1, core.shape[1])


def _back(half: Parts, right: Tensor, by: Tensor) -> Parts:
    """Gradients of a half's parts from the gradient of its product."""
    x, y, *cores = half
    by_x, by_right = by @ right.t(), x.t() @ by
    if not cores:
        return by_x, by_right.t()
    (r, s, *_), columns = cores[0].shape, len(y)
    by_product = by_right.view(r, columns, -1).transpose(1, 2).reshape(-1, columns)  # (r*taps, columns)
    by_core = (by_product @ y).view(r, -1, s).transpose(1, 2).reshape(cores[0].shape)
    return by_x, by_product.t() @ _by_tap(cores[0]), by_core
