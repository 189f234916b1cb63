"""Evaluation: how good the public model and the clients' personal models are after a round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fewbits.engines.common.task import Task
from fewbits.engines.simulation.pool import Pool


@dataclass(frozen=True)
class Evaluation:
    """As in RoundReport; None: not measured."""

    accuracy: float | None = None
    loss: float | None = None
    personal_accuracy: float | None = None
    personal_spread: float | None = None
    personal_worst: float | None = None


def evaluate(pool: Pool, task: Task, bundle: bytes, personal: bool) -> Evaluation:
    """Evaluate the public model on the test set, and every client's personal model on its holdout.

    `bundle` holds the newest public model. `personal`: a method with personal models has no accuracy of a public one.
    """
    found = Evaluation()
    if task.test_y is not None:
        accuracy, loss = pool.evaluate(bundle)
        found = replace(found, accuracy=None if personal else accuracy, loss=loss)
    if task.holdout:
        by_client = np.sort(pool.evaluate_personal(bundle))
        mean, tenth = float(by_client.mean()), max(1, round(len(by_client) / 10))
        found = replace(
            found,
            accuracy=mean if personal else found.accuracy,
            personal_accuracy=mean,
            personal_spread=float(by_client.std()),
            personal_worst=float(by_client[:tenth].mean()),
        )
    return found
