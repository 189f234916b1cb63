"""ParameterTable: rank, size and travelling numbers of every weight of a factored model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from fewbits.factor.factors import Factors, rank_text
from fewbits.factor.layers import DENSE, ORDER, chains
from fewbits.factor.names import shared
from fewbits.factor.rank import Grid

HEADS = ("weight", "shape", "R", "before", "after", "travels", "rank can reach", "")


@dataclass(frozen=True)
class Row:
    """One weight; a tied weight has one row."""

    name: str  # as in the plain model's state_dict
    shape: tuple[int, ...]  # of the dense weight
    ranks: tuple[int, int] | None  # of each half's rows and columns; None: dense
    before: int  # numbers of the dense weight
    after: int  # numbers now
    travels: int  # numbers that travel
    reachable: int  # largest rank of the rows x rest unfolding that the factors can have
    full: int  # largest rank of any such matrix
    note: str  # the form, or why it stayed dense

    def cells(self) -> tuple[str, ...]:
        """Format the row."""
        rank = rank_text(self.ranks) if self.ranks else "dense"
        shape = "x".join(map(str, self.shape))
        numbers = (f"{n:,}" for n in (self.before, self.after, self.travels))
        return (self.name, shape, rank, *numbers, f"{self.reachable} of {self.full}", self.note)


@dataclass(frozen=True)
class ParameterTable:
    """Sizes of all weights of a model; `str` formats them as a table.

    Args:
        rows: one `Row` for each weight.
        others: numbers of all other parameters (biases, norms), and how many of these travel.
        buffers: numbers of the saved float buffers that travel.
    """

    rows: tuple[Row, ...]
    others: tuple[int, int]  # numbers of all other parameters, and of those that travel
    buffers: int  # numbers of saved float buffers that travel

    @property
    def before(self) -> int:
        """Count the parameters of the plain model."""
        return sum(row.before for row in self.rows) + self.others[0]

    @property
    def after(self) -> int:
        """Count the parameters of the model as it is."""
        return sum(row.after for row in self.rows) + self.others[0]

    @property
    def travels(self) -> int:
        """Count the numbers that travel in one direction, float buffers included."""
        return sum(row.travels for row in self.rows) + self.others[1] + self.buffers

    def __str__(self) -> str:
        cells = [HEADS, *(row.cells() for row in self.rows)]
        size, travel = self.others
        cells.append(("biases, norms", "", "", f"{size:,}", f"{size:,}", f"{travel:,}", "", ""))
        if self.buffers:
            cells.append(("float buffers", "", "", "", "", f"{self.buffers:,}", "", ""))
        ratio = f"{self.before / self.travels:.2f}x fewer" if self.travels else ""
        cells.append(("all", "", "", f"{self.before:,}", f"{self.after:,}", f"{self.travels:,}", "", ratio))
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEADS))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column in (2, 3, 4, 5) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        )


def parameter_table(model: nn.Module) -> ParameterTable:
    """Tabulate every weight of a model: shape, rank, size before and after, travelling numbers, reachable rank.

    The reachable rank is R^2 for FedPara, R(R + 1) for pFedPara and R for low rank, at most that of the matrix. A dense
    weight has the reason why it stayed dense.

    Args:
        model: any module, factored or not.

    Returns:
        A `ParameterTable`.

    Example:
        >>> from fewbits import fedpara
        >>> table = parameter_table(fedpara(nn.Linear(256, 256), gamma=0.0))
        >>> table.before, table.after, table.travels
        (65792, 16640, 16640)
        >>> table.rows[0].ranks, table.rows[0].reachable
        ((16, 16), 256)

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, Propositions 1 to 3 and Table 1.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    buffers = {name: b.numel() for name, b in model.named_buffers()}
    sent = set(shared(model))
    rows = tuple(_rows(model, sent))
    size = sum(sizes.values()) - sum(row.after for row in rows)
    travel = sum(n for name, n in sizes.items() if name in sent) - sum(row.travels for row in rows)
    return ParameterTable(rows, (size, travel), sum(n for name, n in buffers.items() if name in sent))


def _rows(model: nn.Module, sent: set[str]) -> Iterator[Row]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) or "parametrizations." in f"{prefix}.":
            continue
        for attribute in getattr(module, ORDER, tuple(module._parameters)):
            name = f"{prefix}.{attribute}" if prefix else attribute
            tensor = module._parameters.get(attribute)
            if attribute in chains(module):
                owner = chains(module)[attribute][0]
                if isinstance(owner, Factors) and id(owner) not in seen:
                    seen.add(id(owner))
                    inside = f"{prefix}.parametrizations" if prefix else "parametrizations"
                    yield _factored(name, owner, f"{inside}.{attribute}.0", sent)
            elif tensor is not None and tensor.dim() > 1 and id(tensor) not in seen:
                seen.add(id(tensor))
                reason = getattr(module, DENSE, {}).get(attribute, "frozen" if not tensor.requires_grad else "")
                grid = Grid(tensor.shape[0], tensor[0].numel())
                travels = tensor.numel() if name in sent else 0
                size, full = tensor.numel(), grid.full_rank
                yield Row(name, tuple(tensor.shape), None, size, size, travels, full, full, reason)


def _factored(name: str, owner: Factors, prefix: str, sent: set[str]) -> Row:
    r, full = owner.ranks[0], owner.grid.full_rank
    reachable = min(full, {"fedpara": r * r, "pfedpara": r * (r + 1), "lowrank": r}[owner.form])
    sizes = {factor: p.numel() for factor, p in owner.named_parameters()}
    travels = sum(n for factor, n in sizes.items() if f"{prefix}.{factor}" in sent)
    before, after = owner.grid.numel, sum(sizes.values())
    return Row(name, owner.shape, owner.ranks, before, after, travels, reachable, full, owner.form)
