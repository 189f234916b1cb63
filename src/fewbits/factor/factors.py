"""Factors: the parametrization that replaces a weight and composes it from factors when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewbits.errors import LocalError
from fewbits.factor import compose_once
from fewbits.factor.compose import Parts, hadamard_of_halves, right, without_autocast
from fewbits.factor.rank import Grid


class Factors(nn.Module):
    """The factors X1, Y1 (T1) and X2, Y2 (T2) of one weight; calling it composes the weight.

    Registered with `torch.nn.utils.parametrize`: `module.weight` reads as before, and the parameters are named
    `<layer>.parametrizations.weight.0.X1`. No tensor of the dense weight's size is stored.

    - fedpara: ``W = (X1 Y1^T) o (X2 Y2^T)``, ``o`` entrywise.
    - pfedpara: ``W = (X1 Y1^T) o (X2 Y2^T + 1)``.
    - lowrank: ``W = X1 Y1^T``.

    With a core, ``X Y^T`` becomes ``T x1 X x2 Y``. Shapes: X (rows, r), Y (columns, s), T (r, s, *taps).
    """

    private_names: frozenset[str]  # parameters that stay with the client; see `names.py`
    X1: nn.Parameter  # every form has it; Y1, X2, ... depend on the form
    placing: bool = True  # True while the weight is replaced; later an assignment to it is an error

    def __init__(
        self,
        form: str,  # "fedpara", "pfedpara" or "lowrank"
        shape: tuple[int, ...],  # of the dense weight
        grid: Grid,  # the weight as rows x columns x taps
        ranks: tuple[int, int],  # row and column rank of each half
        tanh: bool = False,  # tanh on each half
        like: Tensor | None = None,  # device and dtype
    ) -> None:
        super().__init__()
        self.form, self.shape, self.grid, self.ranks, self.tanh = form, shape, grid, ranks, tanh
        self.halves = 1 if form == "lowrank" else 2
        for half in range(1, self.halves + 1):
            for name, size in self._sizes(shape).items():
                empty = torch.empty(size) if like is None else torch.empty(size, dtype=like.dtype, device=like.device)
                self.register_parameter(f"{name}{half}", nn.Parameter(empty))
        self.private_names = frozenset(n for n, _ in self.named_parameters() if form == "pfedpara" and n.endswith("2"))

    def _sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        (row_rank, column_rank), grid = self.ranks, self.grid
        sizes: dict[str, tuple[int, ...]] = {"X": (grid.rows, row_rank), "Y": (grid.columns, column_rank)}
        if grid.tucker:
            sizes["T"] = (row_rank, column_rank, *shape[2:])
        return sizes

    def parts(self, half: int) -> Parts:
        """Return X, Y and, in Tucker form, T of half 1 or 2."""
        return tuple(getattr(self, f"{name}{half}") for name in ("XYT" if self.grid.tucker else "XY"))

    def forward(self) -> Tensor:
        """Compose the weight, in the dense weight's shape."""
        return compose_once.once(self, self.X1, self._compose)

    def _compose(self) -> Tensor:
        return compose(self.form, [self.parts(half + 1) for half in range(self.halves)], self.tanh).view(self.shape)

    def right_inverse(self, value: Tensor) -> tuple[()]:
        """Tell `register_parametrization` to store no dense tensor.

        Raises:
            LocalError: the weight is assigned later. A given matrix has, in general, no such factors.
        """
        if not self.placing:
            raise LocalError(
                f"the weight of shape {self.shape} is composed of factors and cannot be assigned; "
                "write to its factors, or merge() the model first"
            )
        return ()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Name the layer and both ranks where torch would list every key."""
        layer = prefix.replace("parametrizations.", "", 1).removesuffix(".0.")
        for name, here in self.named_parameters():
            there = state_dict.get(prefix + name)
            if isinstance(there, Tensor) and there.shape != here.shape:
                raise LocalError(
                    f"{layer}: its factors have rank {_ranks(here)}; the loaded ones have rank {_ranks(there)} "
                    f"({name} {tuple(here.shape)}, got {tuple(there.shape)})"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.form}, {'x'.join(map(str, self.shape))} of rank {rank_text(self.ranks)}"


def rank_text(ranks: tuple[int, int]) -> str:
    """Format a rank pair: `16`, or `64x3` where one side is shorter than the rank."""
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}x{ranks[1]}"


def _ranks(factor: Tensor) -> str:
    return rank_text((factor.shape[0] if factor.dim() > 2 else factor.shape[1], factor.shape[1]))


def compose(form: str, halves: list[Parts], tanh: bool = False) -> Tensor:
    """Compose the weight as a matrix.  # (rows, columns*taps)

    Each half is one product left @ right. In Tucker form right = T x2 Y: the core then costs little, and the matrix has
    the kernel's order in memory.
    """
    shift = 1.0 if form == "pfedpara" else 0.0
    if form != "lowrank" and not tanh:
        return hadamard_of_halves(halves[0], halves[1], shift)
    with without_autocast(halves[0][0]):
        products = [x @ right(*rest) for x, *rest in halves]
        if form == "lowrank":
            return products[0]
        first, second = map(torch.tanh, products)
        return first * (second + shift) if shift else first * second
