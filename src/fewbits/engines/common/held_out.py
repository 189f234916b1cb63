"""A share of every client's examples for the evaluation of its own model, whatever form the data have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from fewbits.data.partition import held_out_rows
from fewbits.engines.common.shares import GivenShares, MadeShares, Shares, has_columns, is_columns
from fewbits.errors import LocalError
from fewbits.learn.batches import ClientDataError
from fewbits.learn.examples import Examples
from fewbits.learn.outputs import described
from fewbits.rng import Key

WAY_OUT = "give the data set that it reads, with collate= for its batches"
Split = Callable[[Any, int], Any]  # of a client's data and its number: one part of the data


class HeldOutShares(Shares):
    """Shares whose clients train on one part of their data and are evaluated on the other.

    Args:
        shares: all data.
        share: of each client's examples that is held out.
        key: which examples, together with the client's number.

    Raises:
        LocalError: a client has one example only, or its data are no examples by number, as a loader's are not.
    """

    def __init__(self, shares: Shares, share: float, key: Key) -> None:
        def split(tested: bool) -> Split:
            def part(given: Any, client: int) -> Any:
                who = f"{shares.who} {client}"
                check_by_number(given, who)
                size = len(shares.of(given, client))
                try:
                    return part_of(given, held_out_rows(size, share, key.fold(client), who)[tested])
                except LocalError as error:
                    raise ClientDataError(str(error)) from error

            return part

        self._whole, self.share, self.count, self.who = shares, share, shares.count, shares.who
        self._trained, self._tested = (_mapped(shares, split(tested)) for tested in (False, True))

    def given(self, client: int) -> Any:
        return self._trained.given(client)

    def of(self, given: Any, client: int) -> Examples:
        return self._trained.of(given, client)

    def examples(self, client: int) -> Examples:
        return self._trained.examples(client)

    def held_out(self, client: int) -> Examples:
        return self._tested.examples(client)

    def sizes(self) -> list[int] | None:
        return self._trained.sizes()

    def summary(self) -> list[str]:
        return self._whole.summary()


def _mapped(shares: Shares, part: Split) -> Shares:
    """Shares of a part of each client's data; a function's are parted when it is called."""
    if isinstance(shares, GivenShares):
        return GivenShares([part(shares.given(c), c) for c in range(shares.count)], shares.collate)
    assert isinstance(shares, MadeShares)
    return MadeShares(lambda client: part(shares.given(client), client), shares.count, shares.collate)


def check_by_number(value: Any, who: str) -> None:
    """LocalError where examples cannot be taken by their numbers."""
    if isinstance(value, DataLoader | IterableDataset | Examples):
        raise LocalError(
            f"holdout takes examples by their numbers, which {described(value)} does not give ({who}); {WAY_OUT}"
        )


def part_of(value: Any, rows: np.ndarray) -> Any:
    """Some examples of a client's data, in the same form.

    Args:
        value: a pair or more of arrays, a dict of them, or a data set.
        rows: (n,) int64 numbers of examples.

    Example:
        >>> part_of({"x": torch.arange(4), "y": torch.arange(4) * 2}, np.array([1, 3]))
        {'x': tensor([1, 3]), 'y': tensor([2, 6])}
    """
    if has_columns(value):
        return {name: _rows(x, rows) for name, x in value.items()}
    if isinstance(value, TensorDataset):
        return TensorDataset(*(_rows(x, rows) for x in value.tensors))
    if is_columns(value):
        return tuple(_rows(x, rows) for x in value)
    if isinstance(getattr(value, "format", None), Mapping) and hasattr(value, "select"):  # Hugging Face's
        return value.select(rows)
    if isinstance(value, list | tuple):
        return [value[row] for row in rows]
    return Subset(value, rows.tolist())


def _rows(x: Tensor | np.ndarray, rows: np.ndarray) -> Any:
    return x[rows] if isinstance(x, np.ndarray) else x[torch.from_numpy(rows).to(x.device)]
