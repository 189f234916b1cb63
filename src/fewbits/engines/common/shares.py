"""Shares: the data of all clients in whatever form a caller has them, one client's at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fewbits.engines.common.pairs import NO_EXAMPLE, check_unfit, pair, tensor
from fewbits.errors import LocalError
from fewbits.learn.batches import ClientDataError
from fewbits.learn.examples import (
    Collate,
    DatasetExamples,
    Examples,
    FieldExamples,
    LoaderExamples,
    RowExamples,
    StreamExamples,
    TensorExamples,
)
from fewbits.learn.outputs import described

FORMS = (
    "an (x, y) pair, a tuple or dict of tensors, a data set, a DataLoader, or a function of the client's number "
    "that returns one of these"
)


class Shares(ABC):
    """The clients' data. Arguments of all methods: a client's number, from 0."""

    count: int  # clients
    share: float = 0.0  # of each client's examples that `held_out` has
    who: str = "client"  # what errors call one

    @abstractmethod
    def given(self, client: int) -> Any:
        """A client's data as the caller gave them."""

    @abstractmethod
    def of(self, given: Any, client: int) -> Examples:
        """The examples of what `given` gave."""

    @abstractmethod
    def examples(self, client: int) -> Examples:
        """A client's data as examples."""

    def held_out(self, client: int) -> Examples:
        """What its own model is evaluated on, where `share` is above 0."""
        raise LocalError(f"no example of client {client} is held out")

    @abstractmethod
    def sizes(self) -> list[int] | None:
        """Examples of each client; None: nobody knows before a client trains."""

    @abstractmethod
    def summary(self) -> list[str]:
        """What must be the same when a run is continued."""


class GivenShares(Shares):
    """Data that are there, one value per client.

    Args:
        clients: a form of data for each client.
        collate: makes a batch of a list of examples, where a client's data are a data set.
        who: "client" or "node".

    Raises:
        LocalError: the data of a client have no known form.
    """

    def __init__(self, clients: Sequence[Any], collate: Collate | None = None, who: str = "client") -> None:
        self._given, self.collate, self.who = list(clients), collate, who
        self._examples = [examples_of(one, f"{who} {c}", collate) for c, one in enumerate(self._given)]
        self._sizes = [len(one) for one in self._examples]
        self.count = len(self._given)

    def given(self, client: int) -> Any:
        return self._given[client]

    def of(self, given: Any, client: int) -> Examples:
        return self._examples[client]

    def examples(self, client: int) -> Examples:
        return self._examples[client]

    def sizes(self) -> list[int]:
        return self._sizes

    def summary(self) -> list[str]:
        return [piece for one in self._examples for piece in one.summary()]


class MadeShares(Shares):
    """Data that a function makes when a client trains; they are dropped after it.

    Args:
        make: client's number -> its data, in any form. Called in a worker process, and the same each time.
        count: how many clients there are.
        collate: as for GivenShares.
        who: likewise.
    """

    def __init__(
        self, make: Callable[[int], Any], count: int, collate: Collate | None = None, who: str = "client"
    ) -> None:
        self._make, self.count, self.collate, self.who = make, count, collate, who

    def given(self, client: int) -> Any:
        return self._make(client)

    def of(self, given: Any, client: int) -> Examples:
        try:
            found = examples_of(given, f"{self.who} {client}", self.collate)
        except LocalError as error:
            raise ClientDataError(str(error)) from error
        if isinstance(found, RowExamples) and not len(found):
            raise ClientDataError(NO_EXAMPLE)
        return found

    def examples(self, client: int) -> Examples:
        return self.of(self._make(client), client)

    def sizes(self) -> None:
        return None

    def summary(self) -> list[str]:
        return [f"made by {getattr(self._make, '__qualname__', type(self._make).__name__)}", str(self.count)]


def unfit(shares: Shares) -> dict[int, str]:
    """Why the data of some clients cannot be used, by client: those without an example.

    Raises:
        LocalError: so it is with more than half of them.
    """
    found = {client: NO_EXAMPLE for client, size in enumerate(shares.sizes() or ()) if not size}
    check_unfit(found, shares.count, shares.who)
    return found


def examples_of(value: Any, who: str, collate: Collate | None = None) -> Examples:
    """Any form of data as examples; `who` says whose they are.

    Raises:
        LocalError: the form is not known.

    Example:
        >>> len(examples_of([(np.ones(3), 0), (np.zeros(3), 1)], "client 0"))
        2
    """
    if isinstance(value, Examples):
        return value
    if isinstance(value, DataLoader):
        return _of_loader(value, who)
    if isinstance(value, TensorDataset) and collate is None:
        value = value.tensors
    if has_columns(value):
        return _whose(who, lambda: FieldExamples({str(k): tensor(x, f"{k} of {who}") for k, x in value.items()}))
    if is_columns(value):
        if len(value) == 2:
            x, y = pair(value, who)
            if len(x) != len(y):
                raise LocalError(f"{who}: it has {len(x)} rows of x and {len(y)} of y")
            return TensorExamples(x, y)
        return _whose(who, lambda: FieldExamples([tensor(x, f"part {i} of {who}") for i, x in enumerate(value)]))
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, list) for part in value):
        raise LocalError(
            f"{who}: its data are a pair of lists; give tensors or NumPy arrays, or for examples of several lengths "
            "list(zip(x, y)), with collate= that pads them"
        )
    if isinstance(value, IterableDataset):
        return StreamExamples(value, None, collate)
    if isinstance(value, str | bytes | Mapping | Tensor | np.ndarray) or not hasattr(value, "__getitem__"):
        raise LocalError(f"{who} must be {FORMS}; got {described(value)}")
    if not hasattr(value, "__len__"):
        raise LocalError(f"{who}: a {type(value).__name__} without a length; give its __len__, or a DataLoader of it")
    return DatasetExamples(_tensors(value) if collate is None else value, collate)


def _of_loader(loader: DataLoader[Any], who: str) -> Examples:
    if isinstance(loader.dataset, IterableDataset):
        if loader.batch_size is None:
            raise LocalError(f"{who}: a DataLoader with batch_size=None gives no batches; give it a batch_size")
        return StreamExamples(loader.dataset, loader.batch_size, loader.collate_fn, loader.drop_last)
    return _whose(who, lambda: LoaderExamples(loader))


def _tensors(value: Any) -> Any:
    """A Hugging Face data set that gives tensors instead of lists; any other one as it is."""
    form = getattr(value, "format", None)
    if isinstance(form, Mapping) and form.get("type") is None and hasattr(value, "with_format"):
        return value.with_format("torch")
    return value


def has_columns(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it is a dict of arrays alone."""
    return isinstance(value, Mapping) and bool(value) and all(map(_is_array, value.values()))


def is_columns(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a tuple or list of two arrays or more: columns, not examples."""
    return isinstance(value, tuple | list) and len(value) >= 2 and all(map(_is_array, value))


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _whose(who: str, make: Callable[[], Examples]) -> Examples:
    try:
        return make()
    except LocalError as error:
        raise LocalError(f"{who}: {error}") from None
