"""Exchanges: outer steps of the replicas that one process has, one of a network's or all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from fewbits.errors import FewbitsError, LocalError
from fewbits.replicas.apart import check_apart
from fewbits.replicas.outer_model import OuterModel, check_whole, loading, taking
from fewbits.replicas.pair_replica import LoadedPair
from fewbits.replicas.replica import Loaded, Messages, Replica
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.state_parts import OWNER

Make = Callable[[], list[memoryview]]
Parts = Sequence[Messages]
MakeParts = Callable[[], list[list[memoryview]]]
Flight = Callable[[], Messages]


class Exchanges:
    """When frames are made and used, and what remains when one of them is refused: all as before the call.

    A refused exchange is made anew at the next call of `step`, on all ranks, so that a run whose fault was repaired
    goes on as if it had not been. With a delay all ranks learn of a refusal when the frames would be used.

    Args:
        replicas: of this process, with one outer model in common.
        carry: calls what makes the messages of these replicas, and returns what waits for those of all ranks.
        scatter: calls what makes the first leg of these replicas, for each a part for every rank; returns what came for
            each of them.
    """

    def __init__(
        self, replicas: Sequence[Replica], carry: Callable[[Make], Flight], scatter: Callable[[MakeParts], Parts]
    ) -> None:
        self.replicas, self._carry, self._scatter = list(replicas), carry, scatter
        self._flight: Flight | None = None  # what waits for the messages that travel

    def step(self) -> bool:
        """Count an inner step; True when an outer step was taken after it; FewbitsError, and nothing has changed."""
        for replica in self.replicas:
            replica.catch_up()
        send, land = self.replicas[0].due
        if send is None and self._flight is None:
            send = land  # the frame of this fragment was refused
        if send is not None:
            self._flight = self._sent(send)
        if land is not None:
            flight, self._flight = self._flight, None
            assert flight is not None
            self._land(land, flight)
        else:
            with taking(self.outer):
                self._count()
        return land is not None

    @property
    def outer(self) -> Sequence[OuterModel]:
        """The outer model that the replicas have in common, by fragment."""
        return self.replicas[0].outer

    def _count(self) -> None:
        for replica in self.replicas:
            replica.steps += 1

    def _sent(self, fragment: int) -> Flight:
        """Make the messages; what waits for those of all ranks, or raises why there are none."""
        self._rollback(fragment)  # of a call that was interrupted
        try:
            check_apart(self.replicas)
            return self._carry(self._maker(fragment))
        except FewbitsError as error:
            self._rollback(fragment)
            return _raising(error)
        except BaseException:
            self._rollback(fragment)
            raise

    def _maker(self, fragment: int) -> Make:
        """What makes the messages for all ranks; of slices the first leg travels before."""
        sliced = [replica for replica in self.replicas if isinstance(replica, SlicedReplica)]
        if not sliced:
            return lambda: [replica.message(fragment) for replica in self.replicas]
        parts = self._scatter(lambda: [replica.parts(fragment) for replica in sliced])
        return lambda: [replica.message_of(fragment, part) for replica, part in zip(sliced, parts, strict=True)]

    def _land(self, fragment: int, flight: Flight) -> None:
        first = self.replicas[0]
        try:
            messages = flight()
            check_apart(self.replicas)
            take = self.outer[fragment].prepare(first.frames(fragment, messages))
        except BaseException:
            self._rollback(fragment)
            raise
        with taking(self.outer):
            take()
            for replica in self.replicas:
                replica.settle(fragment, messages)
            self._count()
        for replica in self.replicas:
            replica.catch_up()

    def _rollback(self, fragment: int) -> None:
        for replica in self.replicas:
            replica.rollback(fragment)

    def state_dicts(self) -> list[dict[str, object]]:
        """The states of the replicas; LocalError while a message travels, as it does for `delay` steps."""
        self.check_landed("OuterStep.state_dict")
        return [replica.state_dict() for replica in self.replicas]

    def check_landed(self, what: str) -> None:
        """LocalError while a message travels, or once a step was interrupted half-way."""
        check_whole(self.outer)
        if self._flight is not None:
            later = self.replicas[0].lands_in
            raise LocalError(f"{what}: a frame travels; ask again once it was used, {later} steps later")

    def load_state_dicts(self, states: Sequence[object]) -> None:
        """Go on from these states; LocalError, and nothing has changed, when one of them does not fit."""
        found = [replica.read_state(state) for replica, state in zip(self.replicas, states, strict=True)]
        for rank, other in enumerate(found):
            _check_alike(found[0], other, rank)
        if self._flight is not None:
            with suppress(FewbitsError):
                self._flight()  # no later message may overtake it
            self._flight = None
        with loading(self.outer):
            for replica, loaded in zip(self.replicas, found, strict=True):
                replica.take_state(loaded)
            for part, (state, _, link) in zip(self.outer, found[0].parts, strict=True):
                part.resume(state, link)


def _raising(error: FewbitsError) -> Flight:
    def flight() -> Messages:
        raise error

    return flight


def check_one_step(first: Loaded | LoadedPair, other: Loaded | LoadedPair, rank: int) -> None:
    """LocalError unless two ranks' states are of the same step."""
    if (first.steps, first.exchanges) != (other.steps, other.exchanges):
        raise LocalError(f"{OWNER}: rank 0's state is of step {first.steps}; that of rank {rank} of step {other.steps}")


def _check_alike(first: Loaded, other: Loaded, rank: int) -> None:
    """LocalError unless two ranks' states agree in all that ranks have in common."""
    check_one_step(first, other, rank)
    for i, ((a, _, ends), (b, _, others)) in enumerate(zip(first.parts, other.parts, strict=True)):
        same = {
            "theta": torch.equal(a.theta, b.theta),
            "the optimizer's moments": all(map(torch.equal, a.moments, b.moments)),
            "the number of outer steps": a.rounds == b.rounds,
            "the ends of links": ends.dump() == others.dump(),
        }
        for what in (what for what, equal in same.items() if not equal):
            raise LocalError(f"{OWNER}: in fragment {i}, {what} of rank 0's state and of rank {rank}'s differ")
