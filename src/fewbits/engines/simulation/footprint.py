"""Footprint: what the clients of a run will keep on disk, measured on a short rehearsal before it begins."""

from __future__ import annotations

import copy
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.federation import Federation
from fewbits.learn.method import Method
from fewbits.links import StateStore
from fewbits.rng import Key

TURNS = 200  # of clients: SQLite's pages are shared by some rows, so that few would not show a row's share
ROUNDS = 100


@dataclass(frozen=True)
class Footprint:
    """Bytes of state files: both ends of every client's link, and what it keeps to itself."""

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
        """Bytes expected after the run's last round, with the versions that ways back to checkpoints need."""
        p, q, rounds = self.share, 1 - self.share, self.schedule.rounds
        held = (p * q ** (rounds - last) * self._versions(last) for last in range(1, rounds + 1))
        return self.per_client * self.clients * sum(held)

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
    """Rehearse the run on a copy of the model with few turns, of one local step each, and weigh what they leave.

    A state whose size depends on the update (a look-back vector of entropy-coded levels) grows as training goes on, so
    the turns are spread over as many rounds as the run has, or ROUNDS if that is less.

    Args:
        task: of the run.
        method: of the run.
        schedule: of the run.
        key: of the rehearsal; the sizes hardly depend on it.

    Raises:
        LocalError: the arguments do not fit each other.
    """
    rounds = min(schedule.rounds, ROUNDS)
    few = replace(task, model=copy.deepcopy(task.model), test_x=None, test_y=None, local=replace(task.local, steps=1))
    clients = len(few.parts)
    brief = replace(schedule, rounds=rounds, per_round=min(-(-TURNS // rounds), clients), processes=1)
    with tempfile.TemporaryDirectory(prefix="fewbits-") as name:
        folder = Path(name)
        with closing(StateStore(folder / "empty", writer="0")), closing(StateStore(folder / "empty", writer="server")):
            pass
        Federation(few, method, brief, key, folder / "run").run()
        weight = _bytes(folder / "run" / "states") - _bytes(folder / "empty")
    versions = Footprint(1.0, clients, brief).after_run
    return Footprint(max(weight, 0) / versions, clients, schedule)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
