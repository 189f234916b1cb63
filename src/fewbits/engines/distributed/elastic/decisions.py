"""Decisions: what the ranks of a quorum agree on, each by one text in the store.

The first that writes such a text decides: which ranks are in a quorum, and whether its ranks take an outer step. All
that read it agree, whoever dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fewbits.engines.distributed.elastic.members import Members
from fewbits.engines.distributed.elastic.quorum import Decision, Quorum
from fewbits.engines.distributed.elastic.quorum_group import LostRankError
from fewbits.errors import PeerLostError

POLL = 0.002  # seconds between two reads
BEGUN = "begun"
HOLDS, NEW = "model", "newcomer"


class Decisions:
    """One process's part in what its quorum agrees on.

    Args:
        of: this process.
    """

    def __init__(self, of: Members) -> None:
        self._of, self._store, self._begun = of, of.store, False

    @property
    def begun(self) -> bool:
        """Whether an outer step was taken."""
        self._begun = self._begun or self._store.get(BEGUN) is not None
        return self._begun

    def adopt(self, quorum: Quorum) -> Quorum:
        """Decide on a quorum, unless one of its number was decided."""
        return Quorum.parse(quorum.number, self._store.swap(f"quorum/{quorum.number}", "", quorum.text()))

    def vote(self, quorum: Quorum, exchange: int, check: Callable[[], None]) -> Decision:
        """Say that this rank has all frames, and wait for what becomes of the exchange.

        Args:
            quorum: the ranks.
            exchange: number in this quorum, from 1.
            check: called again and again; LostRankError when a rank is lost.
        """
        key = _decision(quorum, exchange)
        if self._counted(quorum, exchange) == len(quorum.members):
            self._commit(quorum, exchange)
        while (text := self._store.get(key)) is None:
            try:
                check()
            except LostRankError as lost:
                return self.abort(quorum, exchange, lost)
            time.sleep(POLL)
        self._begun = True
        return Decision.parse(quorum.number, text)

    def _counted(self, quorum: Quorum, exchange: int) -> int:
        """Votes so far, with this rank's."""
        return self._store.count(f"votes/{quorum.number}/{exchange}")

    def _commit(self, quorum: Quorum, exchange: int) -> None:
        """All have voted: let all take the outer step, and take in those that wait."""
        if not self._begun:
            self._store.set(BEGUN, "yes")
        joining = self._of.admission.waiting(quorum.members)
        members = dict(sorted({**quorum.members, **joining}.items()))
        following = Quorum(quorum.number + 1, members, {}) if joining else None
        self._store.swap(_decision(quorum, exchange), "", Decision.commit_text(following))
        if exchange > 1:  # all ranks have read it, since they have voted again
            self._store.forget(_decision(quorum, exchange - 1), f"votes/{quorum.number}/{exchange - 1}")

    def abort(self, quorum: Quorum, exchange: int, lost: LostRankError) -> Decision:
        """End the quorum, unless its ranks have decided otherwise."""
        text = self._store.swap(_decision(quorum, exchange), "", Decision.abort_text(str(lost)))
        return Decision.parse(quorum.number, text)

    def aborted(self, quorum: Quorum, exchange: int) -> str | None:
        """Why the quorum has ended, if it has."""
        text = self._store.get(_decision(quorum, exchange))
        decision = Decision.parse(quorum.number, text) if text else Decision(True)
        return None if decision.committed else decision.reason

    def following(self, quorum: Quorum, lost: Callable[[], Mapping[int, str]], holds: bool) -> Quorum | None:
        """The quorum after one that has ended, once all its ranks are there or known to be lost.

        Args:
            quorum: the one that has ended.
            lost: why ranks count as lost, by rank.
            holds: whether this rank has the model.

        Returns:
            None when the newcomer that this process is must wait again.

        Raises:
            PeerLostError: this rank was left out, or there are fewer than `min_ranks`.
        """
        number, me = quorum.number + 1, self._of.member
        self._store.set(_here(number, me), HOLDS if holds else NEW)
        end, last = time.monotonic() + self._of.timeout, time.monotonic() + 2 * self._of.timeout
        while (text := self._store.get(f"quorum/{number}")) is None:
            self._of.liveness.check()
            here, left = self._here(quorum, lost())
            late = time.monotonic() > end
            missing = [rank for rank in quorum.members if rank not in here and rank not in left]
            if late or not missing:
                left |= {rank: f"rank {rank} has sent nothing for {self._of.timeout:g} s" for rank in missing}
                self._decide(number, quorum, here, left, late=time.monotonic() > last or (late and not missing))
            time.sleep(POLL)
        found = Quorum.parse(number, text)
        self._report_gone(quorum, number, found.left)
        if me in found.members.values():
            return found
        if not holds:
            return None
        reason = found.left.get(self._of.rank, "it was silent for too long")
        raise PeerLostError(
            f"the others go on without rank {self._of.rank}: {reason}. Make OuterStep anew to join again"
        )

    def _here(self, quorum: Quorum, lost: Mapping[int, str]) -> tuple[dict[int, str], dict[int, str]]:
        """What the ranks that are there have, and why others are gone, by rank."""
        here: dict[int, str] = {}
        left: dict[int, str] = {}
        for rank, member in quorum.members.items():
            if text := self._store.get(_here(quorum.number + 1, member)):
                here[rank] = text
            elif reason := self._store.get(f"gone/{member}"):
                left[rank] = reason
            elif rank in lost:
                left[rank] = lost[rank]
        return here, left

    def _report_gone(self, quorum: Quorum, number: int, left: Mapping[int, str]) -> None:
        """Say that ranks are gone, but for those that are there and only wait."""
        for rank, reason in left.items():
            if self._store.get(_here(number, quorum.members.get(rank))) is None:
                self._store.swap(f"gone/{quorum.members.get(rank)}", "", reason)

    def _decide(self, number: int, quorum: Quorum, here: dict[int, str], left: dict[int, str], late: bool) -> None:
        """Decide on the next quorum, of those that have the model; others join it only where they are needed."""
        holders = [rank for rank, what in here.items() if what == HOLDS] if self.begun else list(here)
        if not holders:
            raise PeerLostError(f"no rank that has the model is left: {'; '.join(left.values())}")
        members: dict[int, int] = {rank: quorum.members[rank] for rank in holders}
        left |= {rank: f"rank {rank} got no snapshot and waits again" for rank in here if rank not in members}
        if len(members) < self._of.elastic.min_ranks:
            self._report_gone(quorum, number, left)  # so that others may take their numbers
            members |= self._of.admission.waiting(members)
        if len(members) >= self._of.elastic.min_ranks:
            self.adopt(Quorum(number, dict(sorted(members.items())), left))
        elif late:
            raise PeerLostError(
                f"ranks {sorted(members)} are left, fewer than min_ranks={self._of.elastic.min_ranks}, and nobody has "
                f"joined within {self._of.timeout:g} s: {'; '.join(left.values())}"
            )

    def leave(self, quorum: Quorum, exchange: int) -> None:
        """Tell the others that this rank goes."""
        reason = f"rank {self._of.rank} left"
        self._store.swap(f"gone/{self._of.member}", "", reason)
        if quorum.members:
            self.abort(quorum, exchange, LostRankError(reason))


def _here(number: int, member: int | None) -> str:
    return f"here/{number}/{member}"


def _decision(quorum: Quorum, exchange: int) -> str:
    return f"decision/{quorum.number}/{exchange}"
