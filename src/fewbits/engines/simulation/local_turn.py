"""One client's local training within its turn: what the user's code raises costs the turn, not the run."""

from __future__ import annotations

from contextlib import nullcontext

from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.common.task import Task
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction, LocalReport, LocalSGD
from fewbits.learn.outputs import cross_entropy
from fewbits.learn.seeding import seeded
from fewbits.rng import Key


def train_locally(
    task: Task, local: LocalSGD, model: FlatModel, client: int, key: Key, correct: Correction | None, draws: bool
) -> LocalReport | str:
    """Train in place; the report, or why the training failed.

    Args:
        task: with the client's examples.
        local: how it trains in this round.
        model: as the client begins.
        client: its number.
        key: of this client in this round.
        correct: what the objective adds to gradients.
        draws: whether the objective may draw random numbers, which `LocalSGD` cannot see.
    """
    if client in task.unfit:
        return task.unfit[client]
    loss, rows = task.loss or cross_entropy, task.parts[client]
    try:
        with seeded(key.fold("noise"), model.params.device) if draws else nullcontext():
            return local.train(model, task.x, task.y, rows, key, loss=loss, correct=correct)
    except Exception as error:  # noqa: BLE001 - the user's model, loss and data may raise anything
        return sentence(error)
