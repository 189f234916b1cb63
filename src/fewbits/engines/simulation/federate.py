"""federate: a whole federated training in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Loss, Task
from fewbits.engines.simulation.federation import Federation
from fewbits.engines.simulation.result import Result
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.learn.local import LocalSGD
from fewbits.learn.method import Method
from fewbits.rng import Key


def federate(
    model: nn.Module,
    clients: Sequence[tuple[Tensor, Tensor]],
    method: Method,
    rounds: int,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    local: LocalSGD | None = None,
    per_round: int | None = None,
    loss: Loss | None = None,
    key: Key = Key(0),
    processes: int = 1,
    folder: Path | str | None = None,
    watch: Callable[[RoundReport], None] | None = None,
) -> Result:
    """Train `model` (in place) on the clients' data by `method`, counting real bytes in both directions.

    `clients`: one (x, y) pair of tensors each. `test`: evaluated after every round. `local`: how a client trains, by
    default one epoch of SGD with learning rate 0.1 and batches of 10. `loss(output, y)`: by default cross-entropy.
    `folder`: where to keep logs and checkpoints; a folder with an earlier part of the same run continues it. Same key,
    same bytes, for any number of processes.
    """
    task = Task.of(model, clients, test, local, loss)
    return Federation(task, method, Schedule(rounds, per_round, processes=processes), key, folder).run(watch)
