"""World: the processes of one run, from the handshake until the last one has left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from fewbits.engines.distributed import heartbeat
from fewbits.engines.distributed.handshake import READY, agree, claim, introduce
from fewbits.engines.distributed.heartbeat import Heartbeat, by_hand, left, out
from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import RendezvousStore, until
from fewbits.engines.distributed.watchdog import Watchdog
from fewbits.errors import FewbitsError, LocalError, PeerLostError

HEARSAY = 0.5  # seconds
TIMED_OUT = "Timed out"


class World:
    """All processes of a run; a context that none of them leaves before the others can do without it.

    Whatever ends one of them ends all of them with the same sentence: the first to fail leaves its last words on the
    board. One that dies without a word is found by its closed connection, or by the signs of life that it no longer
    gives, within `patience` seconds.
    """

    def __init__(
        self, place: ProcessInfo | None = None, patience: float = 60.0, limit: float = 1800.0, backend: str = "gloo"
    ) -> None:
        """`place`: what torchrun says when not given. `patience`: seconds to wait for the others to come, and for a
        sign of heartbeat. `limit`: seconds to wait for a living node's frame. `backend`: torch's; frames are bytes on the
        CPU, so it must have a CPU side ("gloo", "mpi", or "cpu:gloo,cuda:nccl" for those who use NCCL beside it).

        Raises LocalError or GoneError with a sentence when the processes do not come together.
        """
        _check(backend, patience, limit)
        self.place = place = place or ProcessInfo.of()
        self.patience, self._limit = patience, limit
        self.rank, self.size = place.rank, place.size
        self.board = RendezvousStore.meet(place, patience)
        claim(self.board, place)
        self._introductions = 0
        self._life = Heartbeat(self.board, place, patience)
        self._guard = Watchdog(self._life, place, patience)
        self._life.start()
        self._guard.start()
        try:
            self._introduce({}, patience)
            self.board.post(READY, "")
            self._connect(backend)
        except FewbitsError as error:
            self._gone(str(error))
            self._end(_farewell())
            raise

    def _introduce(self, facts: Mapping[str, str], patience: float) -> list[dict[str, str]]:
        self._introductions += 1
        return introduce(self.board, self.place, self._introductions, facts, patience)

    def agree(self, facts: Mapping[str, str], own: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """Everybody's `facts` and `own` by rank, once all have come here.

        DesyncError, the same on every rank, names those whose facts differ and both descriptions; `own` may differ.
        """
        found = self._introduce({**facts, **(own or {})}, self._limit)
        agree(found, set(facts))
        return found

    def _connect(self, backend: str) -> None:
        wait = timedelta(seconds=self._limit)
        try:
            dist.init_process_group(backend, store=self.board.store, rank=self.rank, world_size=self.size, timeout=wait)
        except RuntimeError as error:
            words = f"node {self.rank} cannot reach the others by {backend}: {_line(error)}"
            raise self._gone(words) from None

    def wait(self, work: Any, peer: int) -> None:
        """Wait for a send to or a receive from `peer`; GoneError names the node that the run has lost."""
        try:
            work.wait()
        except RuntimeError as error:
            if TIMED_OUT in str(error):
                late = self._life.laggard(self.board)
                raise PeerLostError(f"node {late} lives, but has sent nothing for {self._limit:g} s") from None
            raise PeerLostError(self._hearsay() or f"node {peer} is gone: {_line(error)}") from None

    def _hearsay(self) -> str | None:
        """Words that come just after a connection was closed: torch closes it before its owner can speak."""
        until(lambda: self.board.words is not None, HEARSAY)
        return self.board.words

    def advance(self, progress: int) -> None:
        """Tell the others, with the next sign of life, how far this node is: the least is who all are waiting for."""
        self._life.progress = progress

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave together, or say why not."""
        try:
            if error is None:
                self._leave()
            elif isinstance(error, PeerLostError):
                raise self._gone(str(error)) from error
            elif isinstance(error, KeyboardInterrupt):
                self._gone(by_hand(self.rank))
            else:
                own = str(error) if isinstance(error, FewbitsError) else f"{type(error).__name__}: {error}"
                self._gone(f"node {self.rank} stopped: {own}")
        finally:
            self._end(self.patience if error is None else _farewell())
            if error is None:  # else its destructor may wait for the peers
                dist.destroy_process_group()

    def _gone(self, words: str) -> PeerLostError:
        """The error with the run's last words; ours, if nobody has spoken before."""
        try:
            return PeerLostError(self.board.say(words))
        except PeerLostError:  # the store, too
            return PeerLostError(self._life.words or words)

    def _leave(self) -> None:
        """Wait until everybody is at the end: frames may still be on their way."""
        self.board.post(left(self.rank), "")
        names = [left(rank) for rank in range(self.size)]
        in_time = until(lambda: self.board.has(*names) or self.board.words is not None, self._limit)
        if words := self.board.words:
            raise PeerLostError(words)
        if not in_time:
            raise self._gone(f"node {self._life.laggard(self.board)} has not come to the end in {self._limit:g} s")

    def _end(self, patience: float) -> None:
        """Be done with the board; whoever holds the store stays until the others are done with it, or are gone."""
        self._guard.stop()
        self._life.stop()
        names = [out(rank) for rank in range(self.size)]
        with suppress(PeerLostError):
            self.board.post(out(self.rank), "")
            if self.place.hosts:
                until(lambda: self.board.has(*names), patience)


def _check(backend: str, patience: float, limit: float) -> None:
    if not (patience > 0 and limit > 0):
        raise LocalError(f"World: patience and limit are seconds above 0; got {patience} and {limit}")
    if dist.is_initialized():
        raise LocalError("World: torch.distributed is initialised already in this process; one run at a time")
    cpu = next((part.removeprefix("cpu:") for part in backend.split(",") if not part.startswith("cuda:")), "none")
    if cpu == "nccl":
        raise LocalError("World: NCCL carries no bytes on the CPU, and frames are; give backend='cpu:gloo,cuda:nccl'")
    if not dist.is_backend_available(cpu):
        raise LocalError(f"World: this torch has no backend {cpu!r}; gloo is always there")


def _farewell() -> float:
    """Seconds until everybody has heard last words."""
    return 2 * heartbeat.EVERY + heartbeat.GRACE


def _line(error: Exception) -> str:
    """What torch says, without where in its source it says it."""
    text = re.sub(r"^\[[^]]*\]\s*", "", str(error).splitlines()[0])
    return text.partition(". This is typically")[0][:200]
