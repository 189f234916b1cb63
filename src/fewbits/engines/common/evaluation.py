"""Evaluation within a run: what the user's model, loss or metric raises costs the round's figures, not the run."""

from __future__ import annotations

from torch import Tensor

from fewbits.engines.common.process_settings import same_settings
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn.evaluation import Scores, score
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.outputs import cross_entropy

LONGEST = 400  # characters of a sentence


def score_or_say(model: FlatModel, task: Task, x: Tensor, y: Tensor, first: int = 0) -> Scores:
    """The sums of a model over examples by the task's loss and metric; they say why, where there are none.

    `first` is the number of the first row, where x is a piece of a larger set.
    """
    try:
        with same_settings():
            return score(model, x, y, loss=task.loss or cross_entropy, metric=task.metric, first=first)
    except LocalError as error:
        return Scores(failure=" ".join(str(error).split())[:LONGEST])
    finally:
        model.repair()
