"""ElasticRanks: the messages of an outer step among the ranks that are there, whoever dies or joins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from fewbits.engines.distributed.agreement import MOST_BYTES
from fewbits.engines.distributed.elastic.decisions import Decisions
from fewbits.engines.distributed.elastic.members import Members
from fewbits.engines.distributed.elastic.options import Elastic
from fewbits.engines.distributed.elastic.quorum import Quorum
from fewbits.engines.distributed.elastic.quorum_group import Gathered, LostRankError, QuorumGroup
from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.message_gather import check_notes
from fewbits.errors import DesyncError, PeerLostError
from fewbits.replicas import Flight, Make, Replica
from fewbits.replicas.present import RankChange, addressed, count_snapshot, regroup
from fewbits.replicas.snapshot import begin_from, most_snapshot_bytes, read_snapshot, resume_from, write_snapshot

POLL = 0.05  # seconds between two looks at those that are waited for
CONNECT = 10.0  # seconds to connect, beside those without a heartbeat
TRIES = 3  # quorums that end before an outer step, with nobody lost
UNFINISHED = "an earlier exchange was not finished; make OuterStep anew to join the run again"
T = TypeVar("T")
log = logging.getLogger("fewbits")


class ElasticRanks:
    """Carry a replica's messages to all ranks of a quorum, and theirs to it.

    1. All send their frames to all others.
    2. Each that has all frames says so in the store. When all have, all take the outer step; none does before.
    3. When a rank is lost, the quorum ends; those left form the next one and make the exchange anew.
    4. Ranks that wait are taken in after an outer step; the lowest rank sends them a snapshot.

    Args:
        elastic: options.
        replica: of this rank, of one rank so far.
        timeout: seconds to wait for other ranks.

    Raises:
        LocalError: a living process has this rank, or an option is missing.
        DesyncError: this process does not fit the run.
        PeerLostError: the store or all other ranks were lost, or it takes too long.
    """

    def __init__(self, elastic: Elastic, replica: Replica, timeout: float) -> None:
        self._replica, self._timeout, self._elastic = replica, timeout, elastic
        self.changes: list[RankChange] = []
        self._holds = False  # whether this rank has the model of the run
        self._start = replica.start_digest()
        self._quorum = Quorum(-1, {}, {})
        self._exchanged = 0  # in this quorum
        self._group: QuorumGroup | None = None
        self._joining: Quorum | None = None  # what follows the outer step that was just taken
        self._broken, self._tries, self._left = "", 0, dict[int, str]()
        self._members = Members(elastic, replica.facts(), timeout)
        self._decisions = Decisions(self._members)
        try:
            self._enter(self._members.admitted())
            self._guarded(self._open)()
        except BaseException:
            self.leave()
            raise

    def carry(self, make: Make) -> Flight:
        """Start to send this rank's message; what waits for those of all ranks."""
        (message,) = make()
        send, land = self._replica.due
        fragment = land if send is None else send
        assert fragment is not None
        return self._guarded(partial(self._exchange, fragment, message))

    def admit(self) -> None:
        """Take in those that join after the last outer step."""
        if self._joining is not None:
            quorum, self._joining = self._joining, None
            self._guarded(partial(self._follow, quorum))()

    def leave(self) -> None:
        """Leave the run; the others go on at once."""
        try:
            self._decisions.leave(self._quorum, self._exchanged + 1)
        except PeerLostError:
            pass  # the store went first
        self._broken = self._broken or f"rank {self._replica.rank} has left the run; make OuterStep anew to join it"
        if self._group is not None:
            self._group.close()
        self._members.stop()

    def _guarded(self, work: Callable[[], T]) -> Callable[[], T]:
        """Start work(); what waits for it, and raises PeerLostError when the store no longer answers."""
        if self._broken:
            raise PeerLostError(self._broken)
        self._broken = UNFINISHED
        wait = in_background(work, POLL)

        def result() -> T:
            while True:
                try:
                    found = wait()
                except TimeoutError:
                    self._members.liveness.check()
                    continue
                except Exception as error:
                    self._broken = "" if isinstance(error, DesyncError) else str(error)  # the ranks are there
                    raise
                self._broken = ""
                return found

        return result

    def _enter(self, quorum: Quorum) -> None:
        if quorum.number == 0:
            self._members.check_start(quorum)
        self._quorum, self._exchanged = quorum, 0
        self._members.liveness.watch(*quorum.members.values())
        self._left |= quorum.left

    def _follow(self, quorum: Quorum) -> None:
        before, self._group = self._group, None
        self._enter(self._decisions.adopt(quorum))
        if before is not None:
            before.close()
        self._open()

    def _exchange(self, fragment: int, message: memoryview) -> list[memoryview]:
        """The messages of all ranks that are there, in their order; all have them, and nobody has moved."""
        replica = self._replica
        while True:
            first, number = replica.first, self._exchanged + 1
            try:
                assert self._group is not None
                found = self._watched(partial(self._group.gather, message, replica.note, replica.most_bytes))
                check_notes(found.notes)
                end = time.monotonic() + self._timeout
                decision = self._decisions.vote(self._quorum, number, lambda end=end: self._check(end))
                if decision.committed:
                    self._exchanged, self._joining, self._tries = number, decision.joining, 0
                    return list(found.messages.values())
                self._next(LostRankError(decision.reason))
            except LostRankError as lost:
                self._next(lost)
            self._open()
            message = addressed(replica, fragment, message, first)

    def _next(self, lost: LostRankError) -> None:
        """Go into the quorum after one that has ended."""
        quorum, group = self._quorum, self._group
        self._decisions.abort(quorum, self._exchanged + 1, lost)
        late = dict.fromkeys(lost.ranks, str(lost))
        following = self._decisions.following(quorum, lambda: late | self._lost(), self._holds)
        self._group = None
        if group is not None:
            group.close()
        self._tries = 0 if following and following.left else self._tries + 1
        if self._tries:
            log.warning("fewbits: the same ranks begin anew: %s", lost)
        if self._tries >= TRIES:
            raise PeerLostError(f"{TRIES} quorums of the same ranks have ended: {lost}")
        self._enter(following or self._members.admitted())

    def _lost(self) -> dict[int, str]:
        """The ranks of the quorum that are known to be lost, and why."""
        timeout = self._elastic.heartbeat_timeout
        members = self._quorum.members.items()
        silent = [rank for rank, member in members if self._members.liveness.lost(member)]
        closed = self._group.closed if self._group is not None else {}
        return {**{rank: f"rank {rank} was lost: no heartbeat for {timeout:g} s" for rank in silent}, **closed}

    def _check(self, end: float) -> None:
        """LostRankError when a rank of the quorum is lost, when the quorum has ended, or at the end."""
        if (reason := self._decisions.aborted(self._quorum, self._exchanged + 1)) is not None:
            raise LostRankError(reason)
        for rank, reason in self._lost().items():
            raise LostRankError(reason, [rank])
        if time.monotonic() > end:
            rank = self._group.waits_for if self._group is not None else None
            who = "the store" if rank is None else f"rank {rank}"
            raise LostRankError(f"{who} has sent nothing for {self._timeout:g} s", [] if rank is None else [rank])

    def _watched(self, work: Callable[[], T]) -> T:
        """The result of work that waits for other ranks; LostRankError as for `_check`."""
        wait, end = in_background(work, POLL), time.monotonic() + self._timeout
        while True:
            try:
                return wait()
            except TimeoutError:
                self._check(end)

    def _open(self) -> None:
        """Connect with all ranks of the quorum, and give or take the snapshot that newcomers need."""
        while True:
            try:
                return self._opened()
            except LostRankError as lost:
                self._next(lost)

    def _opened(self) -> None:
        replica, quorum = self._replica, self._quorum
        ranks, before = list(quorum.members), replica.ranks
        store, wait = self._members.store.group_store(str(quorum.number)), CONNECT + self._elastic.heartbeat_timeout
        self._group = group = self._watched(lambda: QuorumGroup(store, ranks, replica.rank, wait))
        hello = replica.exchanges + 1 if self._holds else 0
        found = self._watched(partial(group.gather, self._start.encode(), hello, MOST_BYTES))
        holders, begins = self._holders(found)
        newcomers = [rank for rank in ranks if rank not in holders]
        if replica.rank in holders:
            regroup([replica], holders, joined=holders if begins else ())
            if newcomers and replica.rank == holders[0]:
                frame = write_snapshot(replica)
                self._watched(partial(group.send, frame, newcomers))
                self._count(newcomers, "up", len(frame), begins)
        else:
            frame = self._watched(partial(group.receive, holders[0], most_snapshot_bytes(replica, len(holders))))
            snapshot = read_snapshot(frame, replica, holders)
            begin_from(replica, snapshot)
            resume_from(replica.outer, snapshot)
            self._count(holders[:1], "down", len(frame), begins)
        regroup([replica], ranks, newcomers)
        self._note(before, newcomers, begins)

    def _holders(self, found: Gathered) -> tuple[list[int], bool]:
        """The ranks that have the model, and whether the run begins with them: with the values of the lowest."""
        holders = [rank for rank, note in found.notes.items() if note]
        if holders:
            if len({found.notes[rank] for rank in holders}) > 1:
                raise DesyncError(f"the ranks have taken different numbers of outer steps: {found.notes}")
            return holders, False
        if self._decisions.begun:
            raise PeerLostError(f"no rank that has the model is left: {'; '.join(self._left.values())}")
        start = found.messages[min(found.messages)]
        return [rank for rank, message in found.messages.items() if message == start], True

    def _count(self, peers: list[int], direction: str, length: int, begins: bool) -> None:
        """Count a snapshot; the start of a run is not counted."""
        for peer in () if begins else peers:
            count_snapshot(self._replica, peer, direction, length)

    def _note(self, before: tuple[int, ...], joined: list[int], begins: bool) -> None:
        """Say who has left and who has joined."""
        held, self._holds, left, self._left = self._holds, True, self._left, {}
        if not held or begins or not (left or joined):
            return
        change = RankChange(self._replica.exchanges, tuple(joined), left, self._replica.ranks)
        self.changes.append(change)
        said = [*left.values(), *(f"rank {rank} has joined" for rank in joined)]
        log.warning("fewbits: after %d outer steps, %s; ranks %s go on", change.exchanges, "; ".join(said), change.ranks)
