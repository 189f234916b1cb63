"""The entrywise (Hadamard) product of two low-rank matrices, with its own backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


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
    with without_autocast(left1):
        # torch.func needs another, slower kind of Function; a compiler finds the best order itself.
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            return (left1 @ right1) * _half(left2, right2, shift)
        return _Hadamard.apply(left1, right1, left2, right2, shift)  # pyright: ignore[reportReturnType]


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off: a weight composed in bfloat16 would carry the rounding of both halves."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


class _Hadamard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left1: Tensor, right1: Tensor, left2: Tensor, right2: Tensor, shift: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        half1, half2 = left1 @ right1, _half(left2, right2, shift)
        ctx.save_for_backward(left1, right1, left2, right2, half1, half2)
        ctx.shift = shift
        return half1 * half2  # both halves are saved: computing them again costs a third more products

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        left1, right1, left2, right2, half1, half2 = ctx.saved_tensors
        with without_autocast(left1):
            if torch.is_grad_enabled():  # a second derivative needs the halves as functions of the factors
                by1, by2 = grad * _half(left2, right2, ctx.shift), grad * (left1 @ right1)
                return by1 @ right1.T, left1.T @ by1, by2 @ right2.T, left2.T @ by2, None
            by = grad * half2
            grads1 = by @ right1.T, left1.T @ by
            torch.mul(grad, half1, out=by)  # in place: new memory pages may cost more than the product
            return *grads1, by @ right2.T, left2.T @ by, None


def _half(left: Tensor, right: Tensor, shift: float) -> Tensor:
    product = left @ right
    return product.add_(shift) if shift else product
