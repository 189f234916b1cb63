"""ElasticRanks: the messages of an outer step among the ranks that are there, whoever dies or joins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import finalize

from fewbits.engines.distributed.agreement import MOST_BYTES
from fewbits.engines.distributed.elastic.options import Elastic
from fewbits.engines.distributed.elastic.quorum import Quorum
from fewbits.engines.distributed.elastic.quorum_group import Gathered, LostRankError
from fewbits.engines.distributed.elastic.session import Session
from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.message_gather import check_notes
from fewbits.errors import DesyncError, PeerLostError
from fewbits.replicas import Flight, Make, Replica
from fewbits.replicas.outer_model import taking
from fewbits.replicas.present import RankChange, addressed, count_snapshot, regroup
from fewbits.replicas.snapshot import begin_from, most_snapshot_bytes, read_snapshot, resume_from, write_snapshot

POLL = 0.05  # seconds between two looks at the store's silence
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
        self._replica = replica
        self.changes: list[RankChange] = []
        self._holds = False  # whether this rank has the model of the run
        self._start = replica.start_digest()
        self._joining: Quorum | None = None  # what follows the outer step that was just taken
        self._linked: dict[int, int] = {}  # the processes whose links this rank has ends of, by rank
        self._broken = ""  # why no exchange can follow
        self._session = Session(elastic, replica.facts(), timeout)
        self._leave = finalize(self, self._session.leave)  # at the latest when the program ends, before its threads
        try:
            self._session.enter(self._session.members.admitted())
            self._guarded(self._open)()
        except BaseException:
            self._leave()
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
        self._broken = self._broken or f"rank {self._replica.rank} has left the run; make OuterStep anew to join it"
        self._leave()

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
                    self._session.members.liveness.check()
                    continue
                except Exception as error:
                    self._broken = "" if isinstance(error, DesyncError) else str(error)  # the ranks are there
                    raise
                self._broken = ""
                return found

        return result

    def _follow(self, quorum: Quorum) -> None:
        self._session.follow(quorum)
        self._open()

    def _exchange(self, fragment: int, message: memoryview) -> list[memoryview]:
        """The messages of all ranks that are there, in their order; all have them, and nobody has moved."""
        replica, first = self._replica, self._replica.first
        while isinstance(found := _attempted(partial(self._agreed, message)), LostRankError):
            self._session.end(found, self._holds)
            self._open()
            message, first = addressed(replica, fragment, message, first), replica.first
        return found

    def _agreed(self, message: memoryview) -> list[memoryview]:
        """The messages of all ranks of the quorum, once all have them; LostRankError when it has ended."""
        replica, session = self._replica, self._session
        assert session.group is not None
        found = session.watched(partial(session.group.gather, message, replica.note, replica.most_bytes))
        check_notes(found.notes)
        decision = session.vote()
        if not decision.committed:
            raise LostRankError(decision.reason)
        self._joining = decision.joining
        return list(found.messages.values())

    def _open(self) -> None:
        """Connect with all ranks of the quorum, and give or take the snapshot that newcomers need."""
        while isinstance(lost := _attempted(self._opened), LostRankError):
            self._session.end(lost, self._holds)

    def _opened(self) -> None:
        replica, session = self._replica, self._session
        ranks = list(session.quorum.members)
        group = session.connect()
        hello = replica.exchanges + 1 if self._holds else 0
        found = session.watched(partial(group.gather, self._start.encode(), hello, MOST_BYTES))
        holders, begins = self._holders(found)
        newcomers = [rank for rank in ranks if rank not in holders]
        if replica.rank in holders:
            self._regroup(holders)
            if newcomers and replica.rank == holders[0]:
                frame = write_snapshot(replica)
                session.watched(partial(group.send, frame, newcomers))
                self._count(newcomers, "up", len(frame), begins)
        else:
            frame = session.watched(partial(group.receive, holders[0], most_snapshot_bytes(replica, len(holders))))
            snapshot = read_snapshot(frame, replica, holders)
            begin_from(replica, snapshot)
            resume_from(replica.outer, snapshot)
            self._linked = {rank: session.quorum.members[rank] for rank in holders}
            self._count(holders[:1], "down", len(frame), begins)
        self._regroup(ranks)
        self._note(newcomers, begins)

    def _regroup(self, ranks: list[int]) -> None:
        """Go on among these ranks; the links of processes that this one has no frames of begin."""
        members = {rank: self._session.quorum.members[rank] for rank in ranks}
        joined = [rank for rank in ranks if self._linked.get(rank) != members[rank]]
        with taking(self._replica.outer):
            regroup([self._replica], ranks, joined)
            self._linked = members

    def _holders(self, found: Gathered) -> tuple[list[int], bool]:
        """The ranks that have the model, and whether the run begins with them: with the values of the lowest."""
        holders = [rank for rank, note in found.notes.items() if note]
        if holders:
            if len({found.notes[rank] for rank in holders}) > 1:
                raise DesyncError(f"the ranks have taken different numbers of outer steps: {found.notes}")
            return holders, False
        if self._session.begun:
            raise PeerLostError(f"no rank that has the model is left: {'; '.join(self._session.left.values())}")
        start = found.messages[min(found.messages)]
        return [rank for rank, message in found.messages.items() if message == start], True

    def _count(self, peers: list[int], direction: str, length: int, begins: bool) -> None:
        """Count a snapshot; the start of a run is not counted."""
        for peer in () if begins else peers:
            count_snapshot(self._replica, peer, direction, length)

    def _note(self, joined: list[int], begins: bool) -> None:
        """Say who has left and who has joined."""
        knew, self._holds, left, self._session.left = self._holds, True, self._session.left, {}
        if not knew or begins or not (left or joined):
            return
        change = RankChange(self._replica.exchanges, tuple(joined), left, self._replica.ranks)
        self.changes.append(change)
        said = [*left.values(), *(f"rank {rank} has joined" for rank in joined)]
        log.warning(
            "fewbits: after %d outer steps, %s; ranks %s go on", change.exchanges, "; ".join(said), change.ranks
        )


def _attempted(work: Callable[[], T]) -> T | LostRankError:
    """What work() gives, or the rank that was lost meanwhile."""
    try:
        return work()
    except LostRankError as lost:
        return lost
