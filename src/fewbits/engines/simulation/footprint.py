"""Footprint: an estimate of the clients' states on disk, from a short trial run."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Local, Task
from fewbits.engines.simulation.federation import Federation
from fewbits.factor.derived import duplicate
from fewbits.learn.local_function import LocalFunction
from fewbits.learn.method import Method
from fewbits.links import StateStore
from fewbits.rng import Key

UPDATES = 200  # in the trial run: rows share SQLite's pages, so that few rows would not show a row's size
ROUNDS = 100  # of the trial run, at most


@dataclass(frozen=True)
class Footprint:
    """Bytes of state files: both ends of every client's links, and its client state.

    Example:
        >>> Footprint(per_client=1000.0, clients=50, schedule=Schedule(rounds=10, per_round=5)).at_most
        50000.0
    """

    per_client: float  # bytes of one version of one client's states
    clients: int  # of the run
    schedule: Schedule

    @property
    def share(self) -> float:
        """K/N: the probability that a client takes part in a round."""
        return min(self.schedule.per_round or self.clients, self.clients) / self.clients

    @property
    def seen(self) -> float:
        """Clients that will have taken part, expected: N (1 - (1 - K/N)^R)."""
        return self.clients * (1 - (1 - self.share) ** self.schedule.rounds)

    @property
    def after_run(self) -> float:
        """Bytes expected after the run's last round, with the older versions that a resume may need."""
        p, q, rounds = self.share, 1 - self.share, self.schedule.rounds
        versions = (p * q ** (rounds - last) * self._versions(last) for last in range(1, rounds + 1))
        return self.per_client * self.clients * sum(versions)

    @property
    def at_most(self) -> float:
        """Bytes once every client has taken part, one version of each."""
        return self.per_client * self.clients

    def _versions(self, last: int) -> float:
        """Versions expected of a client that took part last in round `last`, by `StateStore.put`'s rule."""
        p, q, every = self.share, 1 - self.share, self.schedule.checkpoint_every
        saved = max(0, (last - 2) // every * every)  # the newest checkpoint that was known then
        horizon = max(min(saved, every), saved - every)  # the oldest
        since, between = last - 1 - saved, saved - horizon
        two = 2 - 2 * q**between - between * p * q ** max(between - 1, 0)  # of those between the two, the last two
        return 1 + (1 - q**since) + two + (1 - q**horizon)


def footprint(task: Task, method: Method, schedule: Schedule, key: Key) -> Footprint:
    """Estimate the states' size from a trial run: a copy of the model, few updates, one local step each.

    A state whose size depends on the update grows as training goes on, such as a look-back vector of entropy-coded
    levels. So the trial run has as many rounds as the run, or ROUNDS if that is less.

    Args:
        task: of the run.
        method: of the run.
        schedule: of the run.
        key: of the run.
    """
    rounds = min(schedule.rounds, ROUNDS)
    few = replace(task, model=duplicate(task.model), test_x=None, test_y=None, test=None, local=_one_step(task.local))
    clients = few.clients
    brief = replace(schedule, rounds=rounds, per_round=min(-(-UPDATES // rounds), clients), processes=1)
    with tempfile.TemporaryDirectory(prefix="fewbits-") as name:
        folder = Path(name)
        with closing(StateStore(folder / "empty", writer="0")), closing(StateStore(folder / "empty", writer="server")):
            pass
        Federation(few, method, brief, key, folder / "run").run()
        weight = _bytes(folder / "run" / "states") - _bytes(folder / "empty")
    versions = Footprint(1.0, clients, brief).after_run
    return Footprint(max(weight, 0) / versions, clients, schedule)


def _one_step(local: Local) -> Local:
    """With one step for each client, where the number of steps is ours to say."""
    return local if isinstance(local, LocalFunction) else replace(local, steps=1)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
