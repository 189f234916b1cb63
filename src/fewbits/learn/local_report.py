"""LocalReport: counts and loss of one local training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewbits.learn.evaluation import no_target

Loss = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> mean over the batch, a scalar


@dataclass(frozen=True)
class LocalReport:
    """Counts and loss of one local training.

    Args:
        steps: gradient steps taken.
        examples: the client's: its weight in the average.
        loss: mean loss over the examples of the steps, each before its step; None: no step had one.
        without_loss: steps whose loss was not finite, which the mean leaves out.
        without_target: those of them none of whose targets counts.
        remarks: sentences about the data or the rate, said once in a run.
        optimizer_state: the optimizer's, where it stays with the client.

    Example:
        >>> LocalReport(steps=4, examples=20, loss=0.5).loss_note
        ''
    """

    steps: int  # gradient steps taken
    examples: int  # examples of the client: its weight in the average
    loss: float | None  # mean loss over the examples of the steps, each before its step; None: no step had one
    without_loss: int = 0  # steps whose loss was not finite, which the mean leaves out
    without_target: int = 0  # those of them none of whose targets counts
    remarks: tuple[str, ...] = ()  # sentences about the data or the rate, said once in a run
    optimizer_state: bytes = b""  # where it stays with the client

    @property
    def loss_note(self) -> str:
        """What `loss` leaves out, as a sentence; "": nothing.

        >>> LocalReport(steps=2, examples=20, loss=None, without_loss=2, without_target=2).loss_note
        'none of its targets counts: the loss leaves all of them out'
        """
        if self.without_target == self.steps:
            return "none of its targets counts: the loss leaves all of them out"
        diverged = self.without_loss - self.without_target
        found = [f"{self.without_target} local steps had no target that counts"] if self.without_target else []
        found += [f"the loss of {diverged} local steps was not finite"] if diverged else []
        return f"{' and '.join(found)}; train_loss leaves them out" if found else ""


class LossMean:
    """The mean of a training's losses by examples, each taken before its step, and what it leaves out."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self._steps = self._seen = self._without = self._void = 0
        self._total = 0.0

    def add(self, mean: float, targets: object, size: int) -> None:
        """Count a batch."""
        if math.isfinite(mean):
            self._seen, self._total = self._seen + size, self._total + mean * size
        else:
            self._without += 1
            self._void += isinstance(targets, Tensor) and no_target(targets, self.loss)

    def report(self, steps: int, examples: int, **more: Any) -> LocalReport:
        """Of all batches."""
        mean = self._total / self._seen if self._seen else None
        return LocalReport(steps, examples, mean, self._without, self._void, **more)
