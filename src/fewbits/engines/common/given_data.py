"""The clients' data as a caller gives them, as Shares: a list, a function of the client's number, or a partitioner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fewbits.checks import check_count
from fewbits.engines.common.pairs import is_table
from fewbits.engines.common.shares import FORMS, GivenShares, MadeShares, Shares
from fewbits.errors import LocalError, words
from fewbits.learn.examples import Collate, Examples

NO_COLLATE = "leave it out, or give torch.utils.data.TensorDataset(x, y)"


def shares_of(
    clients: Any, population: int | None, collate: Collate | None, test: Any, who: str = "client"
) -> Shares | None:
    """The clients' data in their own form; None: all have an (x, y) pair of tensors, and so has the test set.

    Args:
        clients: a list with a form of data for each client, a function of the client's number, or a partitioner of
            flwr-datasets with its data set.
        population: how many clients a function has.
        collate: makes a batch of a list of examples.
        test: any form of data, or None.
        who: "client" or "node".

    Raises:
        LocalError: `population` does not fit the clients, or a partitioner fails.
    """
    if hasattr(clients, "load_partition"):
        clients = _partitions(clients)
    if callable(clients) and not isinstance(clients, Iterable):
        if population is None:
            raise LocalError("clients is a function of the client's number; say how many there are: population=100")
        check_count("population", population)
        return MadeShares(clients, population, collate, who)
    _check_several(clients, who)
    if population is not None:
        raise LocalError(f"population={population} is for clients that a function makes; a list says how many it has")
    if not isinstance(clients, list | tuple) or not clients:
        return None  # `pairs` takes any iterable, or says what is wrong with it
    data = [one for one in (*clients, test) if one is not None]
    if collate is not None and not any(map(_is_data_set, data)):
        what = "pairs of arrays" if _is_pair(data[0], collate) else f"given as {type(data[0]).__name__}"
        raise LocalError(f"collate makes batches of data sets; the {who}s' data are {what}: {NO_COLLATE}")
    return None if all(_is_pair(one, collate) for one in data) else GivenShares(clients, collate, who)


def _check_several(clients: Any, who: str) -> None:
    """LocalError where all data are one data set, or a dict by names."""
    if isinstance(clients, Mapping):
        kind = type(clients).__name__
        raise LocalError(f"{who}s must be a list with {FORMS}; got a {kind}; give list(them.values())")
    parts = ""
    if isinstance(getattr(clients, "format", None), Mapping) and hasattr(clients, "shard"):  # Hugging Face's
        parts = "[data.shard(10, i) for i in range(10)]"
    elif isinstance(clients, Dataset | DataLoader):
        parts = "[torch.utils.data.Subset(data, range(i, len(data), 10)) for i in range(10)]"
    if parts:
        raise LocalError(
            f"{who}s must be a list with one data set for each {who}; got one {type(clients).__name__} alone; divide "
            f"it, such as by {parts}"
        )


def _partitions(partitioner: Any) -> list[Any]:
    """Each client's data set, by a partitioner of flwr-datasets."""
    try:
        return [partitioner.load_partition(number) for number in range(partitioner.num_partitions)]
    except Exception as error:  # somebody else's code: without a data set it raises an AttributeError
        raise LocalError(
            f"clients: the {type(partitioner).__name__} fails: {type(error).__name__}: {words(error)}"
        ) from error


def _is_data_set(one: Any) -> bool:
    """Whether its examples come one by one, for a collate function; loaders have their own, and arrays need none."""
    return not isinstance(one, DataLoader | Mapping | Examples) and not _has_arrays(one)


def _is_pair(one: Any, collate: Collate | None) -> bool:
    """Whether it is two tensors, or what was meant as such."""
    if isinstance(one, TensorDataset):
        return len(one.tensors) == 2 and collate is None
    return _has_arrays(one) and len(one) == 2


def _has_arrays(one: Any) -> bool:
    return isinstance(one, tuple | list) and any(isinstance(x, Tensor | np.ndarray) or is_table(x) for x in one)
