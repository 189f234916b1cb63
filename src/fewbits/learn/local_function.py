"""LocalFunction: a client trains by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fewbits.checks import check_whole
from fewbits.errors import LocalError
from fewbits.learn.examples import Examples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction
from fewbits.learn.local_report import LocalReport, Loss
from fewbits.learn.outputs import described
from fewbits.learn.seeding import seeded
from fewbits.rng import Key

SEED = 2**63 - 1


@dataclass
class Context:
    """What a function that trains a client is told beside the model and the data.

    Example:
        >>> Context(round=3, client=7, seed=1, device=torch.device("cpu"), loss=None).round
        3
    """

    round: int  # from 1
    client: int  # from 0
    seed: int  # of this client in this round; torch's, NumPy's and Python's global generators are seeded already
    device: torch.device  # where the model is
    loss: Loss | None  # of the run
    _add: Callable[[], None] = lambda: None
    _corrected: bool = field(default=False, repr=False)

    def correct(self) -> None:
        """Add to the gradients what the method adds, as FedProx does; call it between backward() and step()."""
        self._corrected = True
        self._add()


@dataclass(frozen=True)
class LocalFunction:
    """Train a client by a function of (model, data, context), which changes the model in place.

    Args:
        train: gets the module, the client's data as they were given, and a `Context`. It returns None; or the number
            of examples, where `len` of the data is not that; or a LocalReport, whose loss the run reports.

    Raises:
        LocalError: `train` is no function.

    Example:
        >>> import fewbits as fb
        >>> def train(model, data, context):
        ...     x, y = data
        ...     nn.functional.cross_entropy(model(x), y).backward()
        ...     torch.optim.Adam(model.parameters(), 0.1).step()
        >>> data = [(torch.eye(4), torch.arange(4))]
        >>> fb.federate(nn.Linear(4, 4), data, "dense", rounds=1, local=train).reports[0].clients
        1
    """

    train: Callable[[nn.Module, Any, Context], Any]

    def __post_init__(self) -> None:
        if not callable(self.train):
            raise LocalError(f"LocalFunction: train must be a function of (model, data, context); got {self.train!r}")

    def at(self, round: int) -> LocalFunction:
        """Itself: the context has the round."""
        return self

    def call(
        self,
        model: FlatModel,
        given: Any,
        examples: Examples,
        key: Key,
        *,
        round: int,
        client: int,
        loss: Loss | None,
        correct: Correction | None,
    ) -> LocalReport:
        """Train the model in place on a client's data.

        Raises:
            LocalError: the function returns something else, or does not call `context.correct()` where the method
                adds something to gradients.
        """
        model.attach()
        model.module.train()
        device = model.params.device

        def add() -> None:
            if correct is not None:
                model.take_gradients()
                correct(model)

        context = Context(round, client, key.word() & SEED, device, loss, add)
        model.grads.zero_()
        with seeded(key.fold("noise"), device):
            found = self.train(model.module, given, context)
        if correct is not None and not context._corrected:
            raise LocalError(
                "the method adds something to every gradient, as FedProx does; call context.correct() between "
                "backward() and step()"
            )
        if isinstance(found, LocalReport):
            return found
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise LocalError(
                f"local must return None, the number of examples, or a LocalReport; got {described(found)}"
            )
        size = len(examples) if found is None else found
        check_whole("local: the number of examples", size, 1)
        return LocalReport(steps=1, examples=size, loss=None)
