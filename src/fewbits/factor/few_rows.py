"""A linear layer multiplies few rows with its factors themselves: to compose its weight would cost more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrize

from fewbits.factor.compose import gradients, hadamard_of_halves
from fewbits.factor.factors import Factors

PASSES = 12  # multiplications that take about as long as reading or writing one number


def multiply_with_factors(module: nn.Module) -> None:
    """Let a factored `nn.Linear` choose its order in every forward; other layers do not change.

    It is set on the class that `parametrize` made for this module and its copies.
    """
    kind = type(module)
    if isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward:
        kind.forward = _forward


def is_cheaper(rows: int, outputs: int, inputs: int, rank: int, halves: int) -> bool:
    """Whether a step on so many rows is cheaper without the composed weight.

    With the weight it is ``halves m n R + B m n`` multiplications, and passes over m n numbers; without it
    ``B (m + n) R^halves``, and passes over ``B (m + n) R^(halves - 1)`` numbers. B is rows, m outputs, n inputs.

    >>> is_cheaper(10, 500, 800, 36, halves=2), is_cheaper(64, 500, 800, 36, halves=2)
    (True, False)
    """
    whole, thin = outputs * inputs, rows * (outputs + inputs) * rank ** (halves - 1)
    return thin * (rank + PASSES) < whole * (halves * (rank + PASSES) + rows)


def _forward(self: nn.Linear, input: Tensor) -> Tensor:
    """x W^T + b, in the cheaper order."""
    chain = self._modules["parametrizations"]["weight"]  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
    factors = chain[0]
    if (
        not isinstance(factors, Factors)
        or len(chain) > 1
        or factors.tanh
        or input.device.type != "cpu"  # elsewhere it is not measured
        or input.dtype != factors.X1.dtype
        or input.shape[-1] != self.in_features  # `linear` says so
        or not is_cheaper(
            input.numel() // self.in_features, self.out_features, self.in_features, factors.ranks[0], factors.halves
        )
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.is_autocast_enabled("cpu")
        or parametrize._cache_enabled  # somebody wants the gradient of the weight
    ):
        return linear(input, self.weight, self.bias)
    y = _product(factors, input)
    return y if self.bias is None else y + self.bias


def _product(factors: Factors, x: Tensor) -> Tensor:
    """x W^T.  # (..., n) -> (..., m)"""
    x1, y1 = factors.parts(1)
    if factors.halves == 1:
        return linear(x @ y1, x1)
    second = factors.parts(2)
    if factors.form == "pfedpara":  # X2 Y2^T + 1 has a column of ones more in either factor
        second = tuple(torch.cat([part, part.new_ones(len(part), 1)], 1) for part in second)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), x1, y1, *second)  # pyright: ignore[reportAssignmentType]
    return y.view(*x.shape[:-1], len(x1))


class _Product(torch.autograd.Function):
    """``x ((X1 Y1^T) o (X2 Y2^T))^T`` as ``rowsum(X1 Z_b o X2)`` with ``Z_b = Y1^T diag(x_b) Y2``, for every row b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, rank = len(x), y2.shape[1]
        inputs = x.t().contiguous()[:, :, None].mul(y2[:, None]).view(-1, rows * rank)  # (n, B S)
        inner = y1.t() @ inputs  # (R, B S): Z
        outer = (x1 @ inner).view(-1, rows, rank)  # (m, B, S)
        ctx.save_for_backward(x, x1, y1, x2, y2, inputs, inner, outer)
        return (outer * x2[:, None]).sum(2).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, x1, y1, x2, y2, inputs, inner, outer = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative needs functions of the factors
            y = linear(x, hadamard_of_halves((x1, y1), (x2, y2)))
            return tuple(gradients(y, (x, x1, y1, x2, y2), ctx.needs_input_grad, grad))
        rows, rank = len(x), y2.shape[1]
        by = grad.t().contiguous()[:, :, None].mul(x2[:, None]).view(-1, rows * rank)  # (m, B S)
        by_inner = x1.t() @ by  # (R, B S)
        by_x1, by_y1 = (
            (inner @ by.t()).t(),
            (by_inner @ inputs.t()).t(),
        )  # a product is faster with the longer side last
        by_x2 = (outer * grad.t()[:, :, None]).sum(1)
        back = (y1 @ by_inner).view(-1, rows, rank)  # (n, B, S)
        by_x = (back * y2[:, None]).sum(2).t() if ctx.needs_input_grad[0] else None
        by_y2 = back.mul_(x.t()[:, :, None]).sum(1)
        return by_x, by_x1, by_y1, by_x2, by_y2
