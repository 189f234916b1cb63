"""Evaluation within a run: what the user's model, loss or metric raises costs the round's figures, not the run."""

from __future__ import annotations

from fewbits.engines.common.process_settings import same_settings
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn.evaluation import Scores, score_examples
from fewbits.learn.examples import Examples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.outputs import cross_entropy

LONGEST = 400  # characters of a sentence


def score_or_say(model: FlatModel, task: Task, examples: Examples, rows: slice) -> Scores:
    """The sums of a model over some rows by the task's loss and metric; they say why, where there are none."""
    model.foreign = True
    try:
        with same_settings():
            loss = task.loss or (cross_entropy if task.shares is None else None)
            return score_examples(model, examples, rows, loss=loss, metric=task.metric)
    except LocalError as error:
        return Scores(failure=" ".join(str(error).split())[:LONGEST])
    finally:
        model.repair()
