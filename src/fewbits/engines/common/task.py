"""Task: a model, data split among clients, and how a client trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewbits.checks import shown
from fewbits.engines.common.pairs import NO_EXAMPLE, check_unfit, pair, pairs, tensor
from fewbits.engines.common.shares import Shares, unfit
from fewbits.errors import LocalError
from fewbits.learn.examples import Examples, TensorExamples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.learn.local_function import LocalFunction
from fewbits.learn.local_training import LocalTraining, optimizer_hint
from fewbits.learn.metrics import Metric, check_mean, ignored, metric_name
from fewbits.learn.module_checks import check_module
from fewbits.learn.outputs import cross_entropy
from fewbits.learn.seeding import guarded, loss_draws, seeded
from fewbits.rng import Key

Loss = Callable[[Any, Tensor], Tensor]
Local = LocalSGD | LocalTraining | LocalFunction


@dataclass(frozen=True, eq=False)
class Task:
    """A model and the data of all clients. The arrays exist once; all processes share them.

    Args:
        model: with its initial weights; trained in place.
        x: (n, ...) inputs of all clients; None: `shares` has their data.
        y: (n, ...) targets of all clients.
        parts: each client's row numbers.
        test_x: (m, ...) inputs of the test set.
        test_y: (m, ...) its targets.
        local: how a client trains.
        loss: (output, y) -> mean loss, a scalar; None: cross-entropy, or with `shares` the model's own, if it has one.
        holdout: each client's row numbers to evaluate its personal model on; empty: no such evaluation.
        seed: `model` is `build(seed)`. Clients then get the seed at first contact, not the model.
        build: makes the initial model from a key.
        metric: (output, y) -> the mean over the batch or its (sum, count), or one of fb.metrics; None: no metric.
        unfit: why the data of some clients cannot be used, by client; their turns are skipped, as those of clients
            without an example.
        shares: the clients' data in other forms, in place of x, y and parts.
        test: the test set in another form, in place of test_x and test_y.

    Raises:
        LocalError: more than half of the clients are unfit, a row number is out of range, or sizes do not fit.

    Example:
        >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
        >>> task = Task(nn.Linear(3, 2), x, y, parts=[[0, 1, 2], [3, 4, 5, 6, 7]])
        >>> [len(part) for part in task.parts]
        [3, 5]
    """

    model: nn.Module  # with its initial weights; trained in place
    x: Tensor | None = None  # (n, ...) all clients' inputs
    y: Tensor | None = None  # (n, ...) and targets
    parts: Sequence[np.ndarray] = ()  # each client's row numbers
    test_x: Tensor | None = None
    test_y: Tensor | None = None
    local: Local = field(default_factory=lambda: LocalSGD(lr=0.1))
    loss: Loss | None = None  # None: cross-entropy
    holdout: Sequence[np.ndarray] = ()  # each client's row numbers of x to evaluate its personal model on; or none
    # `model` is build(seed), in this process and in any other: clients get the seed at first contact, not the model.
    seed: Key | None = None
    build: Callable[[Key], nn.Module] | None = None
    metric: Metric | None = None  # measured wherever an accuracy is
    unfit: Mapping[int, str] = field(default_factory=dict)  # why a client's data cannot be used; empty parts are added
    shares: Shares | None = None
    test: Examples | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        if (self.seed is None) != (self.build is None):
            raise LocalError(f"Task: give both seed and build, or neither; got {self.seed!r} and {self.build!r}")
        if self.shares is not None:
            self._check_shares(self.shares)
            return
        self._set_tensors()
        object.__setattr__(self, "parts", [_row_numbers(part) for part in self.parts])  # lists will do
        if not self.parts:
            raise LocalError("Task: there are no clients")
        empty = {client: NO_EXAMPLE for client, part in enumerate(self.parts) if part.size == 0}
        object.__setattr__(self, "unfit", empty | dict(self.unfit))
        check_unfit(self.unfit, len(self.parts))
        x, y = self.pairs
        if len(x) != len(y):
            raise LocalError(f"Task: x has {len(x)} rows and y {len(y)}")
        _check_rows("part", self.parts, len(x))
        object.__setattr__(self, "holdout", [np.asarray(rows) for rows in self.holdout])
        if self.holdout:
            without = [c for c, rows in enumerate(self.holdout) if len(rows) == 0 and c not in self.unfit]
            if len(self.holdout) != len(self.parts) or without:
                raise LocalError(
                    f"Task: holdout needs one or more rows for each of {len(self.parts)} clients; got "
                    f"{len(self.holdout)} clients, without any: {without}"
                )
            _check_rows("holdout", self.holdout, len(x))
            object.__setattr__(self, "holdout", [rows.astype(np.int64) for rows in self.holdout])
        if (self.test_x is None) != (self.test_y is None):
            raise LocalError("Task: give both test_x and test_y, or neither")
        if self.test_x is not None and self.test_y is not None and not 0 < len(self.test_x) == len(self.test_y):
            rows = f"{len(self.test_x)} and {len(self.test_y)}"
            raise LocalError(f"Task: test_x and test_y need the same number of rows, at least one; got {rows}")
        if self.test_x is not None and self.test_y is not None:
            object.__setattr__(self, "test", TensorExamples(self.test_x, self.test_y))

    def _check_shares(self, shares: Shares) -> None:
        """Data in other forms: none of what goes by row numbers."""
        given = [name for name in ("x", "y", "test_x", "test_y") if getattr(self, name) is not None]
        given += [name for name in ("parts", "holdout") if len(getattr(self, name))]
        if given:
            raise LocalError(f"Task: shares hold the clients' data, and test the test set; leave out {given[0]}")
        if shares.count < 1:
            raise LocalError("Task: there are no clients")
        object.__setattr__(self, "unfit", unfit(shares) | dict(self.unfit))

    @property
    def clients(self) -> int:
        """How many there are."""
        return len(self.parts) if self.shares is None else self.shares.count

    @property
    def sizes(self) -> list[int] | None:
        """Examples of each client; None: nobody knows before a client trains."""
        return [len(part) for part in self.parts] if self.shares is None else self.shares.sizes()

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """x and y of all clients.

        Raises:
            LocalError: the data have another form.
        """
        if self.x is None or self.y is None:
            raise LocalError(
                "this takes an (x, y) pair of tensors for each client, as method auto does; with a method by its name "
                "fb.federate, fb.compare and fb.gossip take other forms of data"
            )
        return self.x, self.y

    def examples(self, client: int) -> Examples:
        """A client's examples; what the user's function raises goes through."""
        if self.shares is not None:
            return self.shares.examples(client)
        return TensorExamples(*self.pairs, self.parts[client])

    @property
    def holds_out(self) -> bool:
        """Whether each client's own model is evaluated on held-out examples."""
        return bool(self.holdout) or (self.shares is not None and self.shares.share > 0)

    def held_out(self, client: int) -> Examples:
        """What a client's own model is evaluated on; what the user's function raises goes through."""
        if self.shares is not None:
            return self.shares.held_out(client)
        return TensorExamples(*self.pairs, self.holdout[client])

    def _check_kinds(self) -> None:
        """What is given in place of a function or a value would fail much later."""
        if not isinstance(self.model, nn.Module):
            raise LocalError(f"Task: model must be a torch module; got {type(self.model).__name__}")
        check_module(self.model)
        if not isinstance(self.local, LocalSGD | LocalTraining | LocalFunction):
            raise LocalError(
                "Task: local must be a LocalSGD, such as fb.LocalSGD(lr=0.1), a fb.LocalTraining, or a function of "
                f"(model, data, context); got {shown(self.local)}{optimizer_hint(self.local)}"
            )
        for name in ("loss", "metric"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise LocalError(f"Task: {name} must be a function of (output, y); got {shown(function)}")
            if isinstance(function, type):
                made = f"{function.__name__}(...)"
                raise LocalError(f"Task: {name} must be a function of (output, y), not a class; give one of it: {made}")
        check_mean(self.loss)
        for name in ("parts", "holdout"):
            if not isinstance(getattr(self, name), Iterable):
                raise LocalError(
                    f"Task: {name} must be a list of row numbers per client; got {shown(getattr(self, name))}"
                )

    def _set_tensors(self) -> None:
        """NumPy arrays become tensors; labels become int64 where cross-entropy is to take them."""
        if self.x is None or self.y is None:
            raise LocalError("Task: give x, y and parts, or shares")
        for name in ("x", "test_x", "y", "test_y"):
            value = getattr(self, name)
            if value is not None or not name.startswith("test"):
                found = tensor(value, f"Task: {name}")
                labels = name.endswith("y") and not (found.is_floating_point() or found.is_complex())
                classes = labels and (self.loss is None or ignored(self.loss) is not None)
                object.__setattr__(self, name, found.long() if classes else found)

    @property
    def metric_name(self) -> str | None:
        """What tables call the metric; None: there is none."""
        return None if self.metric is None else metric_name(self.metric)

    def on(self, device: torch.device) -> Task:
        """The task with its arrays on a device; the model stays where it is."""
        moved = {name: getattr(self, name) for name in ("x", "y", "test_x", "test_y")}
        task = copy.copy(self)  # not `replace`: what was checked once need not be checked again
        for name, x in moved.items():
            object.__setattr__(task, name, x if x is None else x.to(device))
        if task.test_x is not None and task.test_y is not None:
            object.__setattr__(task, "test", TensorExamples(task.test_x, task.test_y))
        return task

    @staticmethod
    def of(
        model: nn.Module,
        clients: Iterable[tuple[Tensor, Tensor]],
        test: tuple[Tensor, Tensor] | None = None,
        local: Local | None = None,
        loss: Loss | None = None,
        metric: Metric | None = None,
        who: str = "client",
    ) -> Task:
        """A task from one (x, y) pair per client; `who`: what errors call a client."""
        if metric is not None and test is None:
            raise LocalError("metric needs examples to be measured on; give test=(x, y)")
        found, unfit = pairs(clients, who)
        test_x, test_y = (None, None) if test is None else pair(test, "test")
        ends = np.cumsum([0] + [len(y) for _, y in found])
        return Task(
            model,
            torch.cat([x for x, _ in found]),
            torch.cat([y for _, y in found]),
            [np.arange(a, b) for a, b in pairwise(ends)],
            test_x,
            test_y,
            local=LocalSGD(lr=0.1) if local is None else local,
            loss=loss,
            metric=metric,
            unfit=unfit,
        )


def sgd(task: Task) -> LocalSGD:
    """The local training of a task whose engine computes with a learning rate.

    Raises:
        LocalError: it is another one.
    """
    if not isinstance(task.local, LocalSGD):
        raise LocalError(
            f"this computes with the learning rate of SGD, so it needs local=fb.LocalSGD(...); got a "
            f"{type(task.local).__name__}"
        )
    return task.local


def evaluation_noise(task: Task, key: Key, model: FlatModel, *what: str | int) -> AbstractContextManager[None]:
    """Seed what model, loss and data sets draw in an evaluation, by its name: the same on any number of processes."""
    noisy = task.shares is not None or is_noisy(task, model)
    return seeded(key.fold("evaluation", *what), model.params.device) if noisy else nullcontext()


def training_guard(task: Task, model: FlatModel) -> AbstractContextManager[None]:
    """Restore the global generators after several trainings at once, where model or loss may draw: it takes 0.1 ms."""
    return guarded(model.params.device) if is_noisy(task, model) else nullcontext()


def is_noisy(task: Task, model: FlatModel) -> bool:
    """Whether the model or the loss may draw random numbers."""
    return model.draws or loss_draws(task.loss or cross_entropy)


def _row_numbers(part: object) -> np.ndarray:
    """As an array; an empty list has no type that says whole numbers."""
    found = np.asarray(part)
    return found if found.size else found.astype(np.int64)


def _check_rows(what: str, parts: Sequence[np.ndarray], size: int) -> None:
    odd = next((c for c, part in enumerate(parts) if part.ndim != 1 or part.dtype.kind not in "iu"), None)
    if odd is not None:
        raise LocalError(f"Task: the {what} of client {odd} must be a list of row numbers; got {parts[odd]!r}")
    there = [part for part in parts if len(part)]
    least, most = min(int(np.min(p)) for p in there), max(int(np.max(p)) for p in there)
    if least < 0 or most >= size:
        raise LocalError(f"Task: a client refers to row {least if least < 0 else most}, but there are {size} rows")
