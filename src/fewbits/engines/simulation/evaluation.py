"""Evaluation: how good the public model and the clients' personal models are after a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewbits.engines.common.task import Task
from fewbits.engines.simulation.pool import Pool

QUANTILES = {"least": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9}


@dataclass(frozen=True)
class Evaluation:
    """As in RoundReport; None: not measured."""

    accuracy: float | None = None
    loss: float | None = None
    personal_accuracy: float | None = None
    personal_spread: float | None = None
    personal_worst: float | None = None
    personal_least: float | None = None
    personal_tenth: float | None = None
    personal_median: float | None = None
    personal_ninetieth: float | None = None
    metric: float | None = None
    personal_metric: float | None = None
    notes: tuple[str, ...] = ()  # why there is no loss or no metric


def evaluate(pool: Pool, task: Task, bundle: bytes, personal: bool) -> Evaluation:
    """Evaluate the public model on the test set, and every client's personal model on its holdout.

    `bundle` holds the newest public model. `personal`: a method with personal models has no accuracy of a public one.
    """
    found = Evaluation()
    if task.test is not None:
        whole = pool.evaluate(bundle)
        found = replace(found, loss=whole.loss, notes=tuple(f"the test set: {x}" for x in whole.notes))
        if not personal:
            found = replace(found, accuracy=whole.accuracy, metric=whole.metric)
    if task.holds_out:
        by_client = pool.evaluate_personal(bundle)
        found = replace(found, **_personal_accuracy([scores.accuracy for scores in by_client]))
        values = [scores.metric for scores in by_client if scores.metric is not None]
        notes = (f"client {client}, its held-out examples: {x}" for client, s in enumerate(by_client) for x in s.notes)
        personal_metric = float(np.mean(values)) if values else None
        found = replace(found, **_quantiles([s.accuracy for s in by_client if s.accuracy is not None] or values))
        found = replace(found, personal_metric=personal_metric, notes=(*found.notes, *notes))
        if personal:
            found = replace(found, accuracy=found.personal_accuracy, metric=found.personal_metric)
    return found


def _personal_accuracy(by_client: Sequence[float | None]) -> dict[str, float]:
    """Mean, spread and worst tenth over the clients that have an accuracy; empty when none has."""
    there = np.sort([accuracy for accuracy in by_client if accuracy is not None])
    if not len(there):
        return {}
    tenth = max(1, round(len(there) / 10))
    return {
        "personal_accuracy": float(there.mean()),
        "personal_spread": float(there.std()),
        "personal_worst": float(there[:tenth].mean()),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """The least value of a client, the one at a tenth of the clients, the median, and the one at nine tenths."""
    if not values:
        return {}
    return {f"personal_{name}": float(np.quantile(values, at)) for name, at in QUANTILES.items()}
