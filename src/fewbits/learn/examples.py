"""Examples of one client, or of a test set: passes over batches, whatever the examples are stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

from fewbits.errors import LocalError
from fewbits.learn.batches import Batch, ClientDataError, parted
from fewbits.learn.outputs import described
from fewbits.learn.select import select
from fewbits.rng import Key

Collate = Callable[[list[Any]], Any]
SEED = 2**63 - 1  # the largest that a torch.Generator takes


class Examples(ABC):
    """A number of examples, in passes over batches.

    Attributes:
        noisy: whether taking a batch may draw random numbers, as augmentation does.
        batch_size: of the loader that they come from; None: whoever trains or evaluates chooses it.
    """

    noisy: bool = True
    batch_size: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def epoch(self, batch_size: int, key: Key) -> Iterator[Batch]:
        """One pass in an order that the key gives; batch_size 0: all in one batch."""

    @abstractmethod
    def piece(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        """The examples from `start` to before `stop`, in their own order."""

    def passes(self, batch_size: int, epochs: int, steps: int | None, key: Key) -> Iterator[Batch]:
        """So many passes, or as many as so many batches take; each in an order of its own.

        Raises:
            LocalError: a pass gives no batch.
        """
        taken, epoch = 0, 0
        while epoch < epochs if steps is None else taken < steps:
            before = taken
            for batch in self.epoch(self.batch_size or batch_size, key.fold("epoch", epoch)):
                yield batch
                taken += 1
                if taken == steps:
                    return
            if taken == before:
                raise ClientDataError(f"its {len(self)} examples give no batch")
            epoch += 1

    def summary(self) -> list[str]:
        """What must be the same when a run is continued: the kind, and how many there are."""
        return [type(self).__name__, str(len(self))]


class RowExamples(Examples):
    """Examples by row number."""

    @abstractmethod
    def take(self, rows: Tensor) -> Batch:
        """The batch of these rows.  # rows: (n,) int64"""

    def epoch(self, batch_size: int, key: Key) -> Iterator[Batch]:
        size = batch_size or len(self)
        order = torch.arange(len(self)) if size >= len(self) else torch.from_numpy(key.permutation(len(self)))
        yield from map(self.take, order.split(max(1, size)))

    def piece(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        yield from map(self.take, torch.arange(start, min(stop, len(self))).split(batch_size))


class TensorExamples(RowExamples):
    """Rows of two tensors; images are taken as `select` does.

    Args:
        x: (n, ...) inputs.
        y: (n, ...) targets.
        rows: (m,) int64, those that are meant; None: all.

    Example:
        >>> examples = TensorExamples(torch.eye(4), torch.arange(4), np.array([1, 3]))
        >>> len(examples), examples.take(torch.tensor([1])).targets
        (2, tensor([3]))
    """

    noisy = False

    def __init__(self, x: Tensor, y: Tensor, rows: np.ndarray | None = None) -> None:
        self.x, self.y = x, y
        self.numbers = np.arange(len(y)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Tensor) -> Batch:
        rows = torch.from_numpy(self.numbers)[rows].to(self.x.device)
        return Batch(select(self.x, rows), self.y.index_select(0, rows), len(rows))


class FieldExamples(RowExamples):
    """Several tensors of the same length: a mapping by names, or a tuple whose last one is the targets.

    Raises:
        LocalError: the tensors differ in length, or there are no targets.

    Example:
        >>> examples = FieldExamples({"ids": torch.zeros(3, 5), "labels": torch.arange(3)})
        >>> examples.take(torch.tensor([2, 0])).targets
        tensor([2, 0])
    """

    noisy = False

    def __init__(self, fields: Mapping[str, Tensor] | Sequence[Tensor]) -> None:
        self._mapping = isinstance(fields, Mapping)
        self._fields: dict[Any, Tensor] = dict(fields if isinstance(fields, Mapping) else enumerate(fields))
        lengths = {str(name): len(x) for name, x in self._fields.items()}
        self._size = parted(fields, "a client's data").size if any(lengths.values()) else 0
        if len(set(lengths.values())) > 1:
            raise LocalError(f"a client's tensors must have as many examples each; got {lengths}")

    def __len__(self) -> int:
        return self._size

    def take(self, rows: Tensor) -> Batch:
        chosen = {name: x.index_select(0, rows.to(x.device)) for name, x in self._fields.items()}
        return parted(chosen if self._mapping else tuple(chosen.values()))

    def summary(self) -> list[str]:
        return [*super().summary(), *(f"{name} {described(x)}" for name, x in self._fields.items())]


class DatasetExamples(RowExamples):
    """A data set with `__len__` and `__getitem__`: torch's, Hugging Face's, or a list of examples.

    Args:
        dataset: gives an example for a row number.
        collate: makes a batch of a list of examples; None: torch's `default_collate`.

    Example:
        >>> examples = DatasetExamples([(torch.ones(2), 1), (torch.zeros(2), 0)])
        >>> examples.take(torch.tensor([1, 0])).targets
        tensor([0, 1])
    """

    def __init__(self, dataset: Any, collate: Collate | None = None) -> None:
        self._dataset, self._collate = dataset, collate or default_collate
        self._size = len(dataset)

    def __len__(self) -> int:
        return self._size

    def take(self, rows: Tensor) -> Batch:
        numbers = rows.tolist()
        several = getattr(self._dataset, "__getitems__", None)  # one read for all
        found: Any = several(numbers) if callable(several) else [self._dataset[row] for row in numbers]
        return parted(self._collate(list(found)))

    def summary(self) -> list[str]:
        return [*super().summary(), type(self._dataset).__name__]


class LoaderExamples(DatasetExamples):
    """What a DataLoader gives, in this process: its sampler, its batches, its collate function; no worker processes.

    A loader with shuffle=True is shuffled by the key. Any other sampler is asked while the global generators, and its
    own one, are seeded from the key.

    Raises:
        LocalError: the loader gives examples, not batches.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader.dataset, loader.collate_fn)
        if loader.batch_sampler is None:
            raise LocalError("a DataLoader with batch_size=None gives no batches; give it a batch_size")
        self._sampler = loader.batch_sampler
        self.batch_size = loader.batch_size or getattr(self._sampler, "batch_size", None)

    def __len__(self) -> int:
        if type(self._sampler) is not BatchSampler or not hasattr(self._sampler.sampler, "__len__"):
            return self._size
        return len(self._sampler.sampler)  # pyright: ignore[reportArgumentType]

    def epoch(self, batch_size: int, key: Key) -> Iterator[Batch]:
        yield from map(self.take, self._rows(key))

    def _rows(self, key: Key) -> Iterator[Tensor]:
        sampler, inner = self._sampler, getattr(self._sampler, "sampler", None)
        if type(sampler) is BatchSampler and type(inner) is RandomSampler and not _resampled(inner):
            last = self._size - self._size % sampler.batch_size if sampler.drop_last else self._size
            yield from torch.from_numpy(key.permutation(self._size))[:last].split(sampler.batch_size)
            return
        for owner in (sampler, inner):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(key.word() & SEED)
        yield from (torch.tensor(list(rows), dtype=torch.int64) for rows in sampler)


def _resampled(sampler: RandomSampler) -> bool:
    """Whether it draws some rows more than once, or leaves some out."""
    return sampler.replacement or sampler.num_samples != len(sampler.data_source)


class StreamExamples(Examples):
    """An IterableDataset, or any iterable that can be begun anew: examples in its own order.

    Args:
        source: gives examples, and ends; without a length it is read once to count them.
        batch_size: examples per batch; None: whoever trains chooses it.
        collate: makes a batch of a list of examples; None: torch's `default_collate`.
        drop_last: whether a smaller last batch is left out.
    """

    def __init__(
        self, source: Any, batch_size: int | None = None, collate: Collate | None = None, drop_last: bool = False
    ) -> None:
        self._source, self.batch_size, self._collate = source, batch_size, collate or default_collate
        self._drop_last = drop_last
        self._size: int | None = None

    def __len__(self) -> int:
        if self._size is None:
            sized = hasattr(self._source, "__len__")
            self._size = len(self._source) if sized else sum(1 for _ in self._source)
        return self._size

    def epoch(self, batch_size: int, key: Key) -> Iterator[Batch]:
        for found in _groups(iter(self._source), batch_size):
            if len(found) == batch_size or not self._drop_last:
                yield parted(self._collate(found))

    def piece(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        yield from (parted(self._collate(found)) for found in _groups(islice(self._source, start, stop), batch_size))


def _groups(source: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while found := list(islice(source, size or None)):
        yield found
