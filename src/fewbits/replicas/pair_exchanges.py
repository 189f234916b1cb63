"""PairExchanges: outer steps with random partners, of the replicas that one process has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fewbits.replicas.apart import check_apart
from fewbits.replicas.exchanges import Make, check_one_step
from fewbits.replicas.outer_model import OuterModel, loading, taking
from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.replica import Messages


class PairExchanges:
    """When a rank and its partner exchange frames; a refused exchange changes nothing, and is made anew.

    Args:
        replicas: of this process.
        swap: calls what makes the messages of these replicas; returns those for them, by the rank that sent them.
        confirm: calls what may still refuse; it raises on a rank and its partner, or on neither.
    """

    def __init__(
        self,
        replicas: Sequence[PairReplica],
        swap: Callable[[Make], Messages],
        confirm: Callable[[Callable[[], object]], object],
    ) -> None:
        self.replicas, self._swap, self._confirm = list(replicas), swap, confirm

    def step(self) -> bool:
        """Count an inner step; True when an outer step was taken after it; FewbitsError, and nothing has changed."""
        due = self.replicas[0].exchange_due
        if due:
            self._rollback()  # of a call that was interrupted
            try:
                check_apart(self.replicas)
                messages = self._swap(lambda: [replica.message() for replica in self.replicas])
                self._confirm(lambda: [replica.prepare(messages) for replica in self.replicas])
            except BaseException:
                self._rollback()
                raise
        with taking(self._outer):
            for replica in self.replicas:
                if due:
                    replica.settle()
                replica.steps += 1
        return due

    def average(self, messages: Messages) -> float:
        """Take the mean of what all ranks sent, as models and slow weights; how far the models were from it.

        WireError, and no change, when a frame is damaged or the mean exceeds the floats' range.
        """
        mean, distance = self.replicas[0].mean_of(messages)
        with taking(self._outer):
            for replica in self.replicas:
                replica.become(mean, messages)
        return distance

    @property
    def _outer(self) -> Sequence[OuterModel]:
        return [part for replica in self.replicas for part in replica.outer]

    def _rollback(self) -> None:
        for replica in self.replicas:
            replica.rollback()

    def state_dicts(self) -> list[dict[str, object]]:
        """The states of the replicas."""
        return [replica.state_dict() for replica in self.replicas]

    def load_state_dicts(self, states: Sequence[object]) -> None:
        """Go on from these states; LocalError, and nothing has changed, when one of them does not fit."""
        found = [replica.read_pair(state) for replica, state in zip(self.replicas, states, strict=True)]
        for rank, other in enumerate(found):
            check_one_step(found[0], other, rank)
        with loading(self._outer):
            for replica, loaded in zip(self.replicas, found, strict=True):
                replica.take_pair(loaded)
