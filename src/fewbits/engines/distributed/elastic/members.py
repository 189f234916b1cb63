"""Members: how a process comes into a run, by a store that all of its processes can reach."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping

from fewbits.engines.distributed.agreement import VERSION
from fewbits.engines.distributed.elastic.admission import Admission
from fewbits.engines.distributed.elastic.liveness import Liveness
from fewbits.engines.distributed.elastic.options import Elastic
from fewbits.engines.distributed.elastic.quorum import MemberInfo, Quorum
from fewbits.engines.distributed.elastic.run_store import RunStore
from fewbits.errors import DesyncError, LocalError, PeerLostError, WireError

POLL = 0.02  # seconds between two reads
CONNECT = (10.0, 60.0)  # seconds for the store to answer, at least and at most: ranks may be more impatient


class Members:
    """One process of a run: its number, its heartbeats, and the first quorum that has it.

    Args:
        elastic: options, filled.
        facts: what must be equal at all ranks, as texts by name.
        timeout: seconds to wait for other ranks.

    Raises:
        LocalError: another living process has this rank.
        PeerLostError: no store answers.
    """

    def __init__(self, elastic: Elastic, facts: Mapping[str, str], timeout: float) -> None:
        assert elastic.rank is not None and elastic.ranks is not None
        self.rank, self.elastic, self.timeout = elastic.rank, elastic, timeout
        self.store = RunStore.connect(elastic.store, elastic.run, sorted((timeout, *CONNECT))[1])
        self.member = self.store.count("announced")
        self.liveness = Liveness(self.store, self.member, elastic.heartbeat_timeout)
        facts = {VERSION: sys.modules["fewbits"].__version__, **facts, "min_ranks": str(elastic.min_ranks)}
        self.info = MemberInfo(self.rank, f"process {os.getpid()} on {socket.gethostname()}", facts)
        self.admission = Admission(self.store, self.liveness, self.info, self.member)
        self._number = -1  # of the last quorum that was decided
        try:
            self._claim()
            self.store.set(f"member/{self.member}", self.info.text())
        except BaseException:
            self.liveness.stop()
            raise

    def _claim(self) -> None:
        """Take this rank's number; LocalError when a living process has it."""
        key, me = f"rank/{self.rank}", str(self.member)
        while (holder := self.store.swap(key, "", me)) != me:
            if not holder.isdecimal():
                raise WireError(f"the store has no process with rank {self.rank}, but {holder[:80]!r}")
            if self._alive(int(holder)):
                other = MemberInfo.parse(self.store.get(f"member/{holder}") or "")
                raise LocalError(
                    f"Elastic: rank {self.rank} is in the run already ({other.process if other else 'a process'}, at "
                    f"the store {self.store.address}); every process needs a rank of its own"
                )
            self.store.swap(key, holder, me)

    def _alive(self, other: int) -> bool:
        """Wait until another process shows a heartbeat, or has none for too long."""
        self.liveness.watch(other)
        first = ""
        while not self.liveness.lost(other) and self.store.get(f"gone/{other}") is None:
            self.liveness.check()
            first = first or self.liveness.beats(other)
            if first != self.liveness.beats(other):
                return True
            time.sleep(POLL)
        return False

    def admitted(self) -> Quorum:
        """Wait until a quorum has this process.

        Raises:
            DesyncError: this process was refused; the text has both values.
            PeerLostError: no rank of the run is there any more, or it takes too long.
        """
        end = time.monotonic() + self.timeout
        while True:
            quorum = self._latest()
            if quorum is None:
                self._begin()
            elif self.member in quorum.members.values():
                return quorum
            else:
                self._check_anybody(quorum)
            if reason := self.store.get(f"refused/{self.member}"):
                raise DesyncError(reason)
            self.liveness.check()
            if time.monotonic() > end:
                raise PeerLostError(self._too_late(quorum))
            time.sleep(POLL)

    def _latest(self) -> Quorum | None:
        """The last quorum that was decided."""
        found = None
        while text := self.store.get(f"quorum/{self._number + 1}"):
            self._number += 1
            found = text
        text = found or (self.store.get(f"quorum/{self._number}") if self._number >= 0 else None)
        return Quorum.parse(self._number, text) if text else None

    def _begin(self) -> None:
        """Decide on the first quorum, once enough ranks are there."""
        assert self.elastic.ranks is not None
        waiting = self.admission.waiting({})
        if len(waiting) >= self.elastic.ranks:
            chosen = sorted(waiting.items(), key=lambda pair: pair[1])[: self.elastic.ranks]
            self.store.swap("quorum/0", "", Quorum(0, dict(sorted(chosen)), {}).text())

    def _check_anybody(self, quorum: Quorum) -> None:
        self.liveness.watch(*quorum.members.values())
        if all(self.liveness.lost(member) for member in quorum.members.values()):
            raise PeerLostError(
                f"the run {self.elastic.run!r} at the store {self.store.address} has begun, and none of its ranks is "
                "there any more; begin another with a new store, or another name in Elastic(run=)"
            )

    def _too_late(self, quorum: Quorum | None) -> str:
        if quorum is None:
            there = sorted(self.admission.waiting({}))
            return f"the run begins with {self.elastic.ranks} ranks, and after {self.timeout:g} s there are {there}"
        return f"rank {self.rank} was not taken in within {self.timeout:g} s, by ranks {list(quorum.members)}"

    def check_start(self, quorum: Quorum) -> None:
        """DesyncError, the same at all ranks, unless those that begin the run have the same facts."""
        self.admission.check_alike(quorum)

    def stop(self) -> None:
        """End the heartbeats."""
        self.liveness.stop()
