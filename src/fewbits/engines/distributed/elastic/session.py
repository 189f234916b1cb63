"""Session: one process's place in a run: the quorum of now, its connections, and the way into the next one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from fewbits.engines.distributed.elastic.decisions import Decisions
from fewbits.engines.distributed.elastic.members import Members
from fewbits.engines.distributed.elastic.options import Elastic
from fewbits.engines.distributed.elastic.quorum import Decision, Quorum
from fewbits.engines.distributed.elastic.quorum_group import LostRankError, QuorumGroup
from fewbits.engines.distributed.in_background import in_background
from fewbits.errors import PeerLostError

POLL = 0.05  # seconds between two looks at those that are waited for
CONNECT = 10.0  # seconds to connect, beside those without a heartbeat
TRIES = 3  # quorums that end before an outer step, with nobody lost
T = TypeVar("T")
log = logging.getLogger("fewbits")


class Session:
    """The quorum that this process is in.

    Args:
        elastic: options, filled.
        facts: what must be equal at all ranks, as texts by name.
        timeout: seconds to wait for other ranks.

    Raises:
        LocalError: another living process has this rank.
        PeerLostError: no store answers.
    """

    def __init__(self, elastic: Elastic, facts: Mapping[str, str], timeout: float) -> None:
        self.timeout, self._heartbeat_timeout = timeout, elastic.heartbeat_timeout
        self.members = Members(elastic, facts, timeout)
        self._decisions = Decisions(self.members)
        self.quorum = Quorum(-1, {}, {})
        self.left: dict[int, str] = {}  # since the last quorum that was open
        self.group: QuorumGroup | None = None
        self._exchanged, self._tries = 0, 0  # in this quorum; quorums in a row that ended without cause

    @property
    def begun(self) -> bool:
        """Whether the run has taken an outer step."""
        return self._decisions.begun

    def enter(self, quorum: Quorum) -> None:
        """Be in this quorum from now on; DesyncError when those that begin a run with it differ."""
        if quorum.number == 0:
            self.members.check_start(quorum)
        before, self.group = self.group, None
        self.quorum, self._exchanged = quorum, 0
        self.members.liveness.watch(*quorum.members.values())
        self.left |= quorum.left
        if before is not None:
            before.close()

    def connect(self) -> QuorumGroup:
        """Connect with all ranks of the quorum; LostRankError as for `check`."""
        quorum, rank = self.quorum, self.members.rank
        store, wait = self.members.store.group_store(str(quorum.number)), CONNECT + self._heartbeat_timeout
        group = self.group = self.watched(lambda: QuorumGroup(store, list(quorum.members), rank, wait))
        return group

    def vote(self) -> Decision:
        """Say that this rank has all frames; what becomes of the exchange."""
        end = time.monotonic() + self.timeout
        decision = self._decisions.vote(self.quorum, self._exchanged + 1, lambda: self.check(end))
        if decision.committed:
            self._exchanged, self._tries = self._exchanged + 1, 0
        return decision

    def follow(self, quorum: Quorum) -> None:
        """Go into a quorum that all have decided on."""
        self.enter(self._decisions.adopt(quorum))

    def end(self, lost: LostRankError, holds: bool) -> None:
        """End the quorum, and go into the next one that has this rank; errors as for `Decisions.following`."""
        self._decisions.abort(self.quorum, self._exchanged + 1, lost)
        late = dict.fromkeys(lost.ranks, str(lost))
        following = self._decisions.following(self.quorum, lambda: late | self.lost(), holds)
        self._tries = 0 if following and following.left else self._tries + 1
        if self._tries >= TRIES:
            raise PeerLostError(f"{TRIES} times in a row the same ranks could not end an exchange: {lost}")
        if self._tries:
            log.warning("fewbits: the same ranks begin an exchange anew: %s", lost)
        self.enter(following or self.members.admitted())

    def lost(self) -> dict[int, str]:
        """The ranks of the quorum that are known to be lost, and why."""
        liveness, timeout = self.members.liveness, self._heartbeat_timeout
        silent = [rank for rank, member in self.quorum.members.items() if liveness.lost(member)]
        closed = self.group.closed if self.group is not None else {}
        return {**{rank: f"rank {rank} was lost: no heartbeat for {timeout:g} s" for rank in silent}, **closed}

    def check(self, end: float) -> None:
        """LostRankError when a rank of the quorum is lost, when the quorum has ended, or at the end."""
        if (reason := self._decisions.aborted(self.quorum, self._exchanged + 1)) is not None:
            raise LostRankError(reason)
        for rank, reason in self.lost().items():
            raise LostRankError(reason, [rank])
        if time.monotonic() > end:
            rank = self.group.waits_for if self.group is not None else None
            who = "another rank" if rank is None else f"rank {rank}"
            raise LostRankError(f"{who} has sent nothing for {self.timeout:g} s", [] if rank is None else [rank])

    def watched(self, work: Callable[[], T]) -> T:
        """The result of work that waits for other ranks; LostRankError as for `check`."""
        wait, end = in_background(work, POLL), time.monotonic() + self.timeout
        while True:
            try:
                return wait()
            except TimeoutError:
                self.check(end)

    def leave(self) -> None:
        """Leave the run; the others go on at once. No thread goes on."""
        with suppress(PeerLostError):  # the store may be gone before
            self._decisions.leave(self.quorum, self._exchanged + 1)
        if self.group is not None:
            self.group.close()
        self.members.stop()
