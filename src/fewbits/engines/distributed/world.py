"""World: the processes of one run, from the handshake until the last one has finished."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from fewbits.engines.distributed import heartbeat
from fewbits.engines.distributed.handshake import READY, check_equal, claim_rank, exchange_facts
from fewbits.engines.distributed.heartbeat import Heartbeat, disconnected, finished, interrupted
from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import RendezvousStore, wait_until
from fewbits.engines.distributed.torch_errors import line, timed_out
from fewbits.engines.distributed.watchdog import Watchdog
from fewbits.errors import FewbitsError, LocalError, PeerLostError

LATE_REASON = 0.5  # seconds: torch may close a connection before its process can report a reason


class World:
    """All processes of a run, as a context; none of them leaves it while another needs it.

    When one process ends with an error, all end with the same sentence: the first to fail writes its failure reason to
    the rendezvous store. A process that dies is found by its closed connection or its missing heartbeats.

    Args:
        process: rank, size and address; None: as torchrun says.
        heartbeat_timeout: seconds to wait for the other processes to join, and for a heartbeat.
        frame_timeout: seconds to wait for a frame of a node that is alive.
        backend: a backend of torch.distributed. Frames are bytes on the CPU, so it needs a CPU part: "gloo", "mpi", or
            "cpu:gloo,cuda:nccl" beside NCCL.

    Raises:
        LocalError: an argument is wrong, or the port is in use.
        PeerLostError: a process does not join.

    >>> World(backend="nccl")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fewbits.errors.LocalError: World: NCCL carries no bytes on the CPU, ...
    """

    def __init__(
        self,
        process: ProcessInfo | None = None,
        heartbeat_timeout: float = 60.0,
        frame_timeout: float = 1800.0,
        backend: str = "gloo",
    ) -> None:
        _check(backend, heartbeat_timeout, frame_timeout)
        self.process = process = process or ProcessInfo.of()
        self._heartbeat_timeout, self._frame_timeout = heartbeat_timeout, frame_timeout
        self.rank, self.size = process.rank, process.size
        self.store = RendezvousStore.connect(process, heartbeat_timeout)
        claim_rank(self.store, process)
        self._exchanges = 0
        self._heartbeat = Heartbeat(self.store, process, heartbeat_timeout)
        self._watchdog = Watchdog(self._heartbeat, process, heartbeat_timeout)
        self._heartbeat.start()
        self._watchdog.start()
        try:
            self._exchange_facts({}, heartbeat_timeout)
            self.store.set(READY, "")
            self._connect(backend)
        except FewbitsError as error:
            self._fail(str(error))
            self._end(_failure_read_time())
            raise

    def _exchange_facts(self, facts: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        self._exchanges += 1
        return exchange_facts(self.store, self.process, self._exchanges, facts, timeout)

    def agree(self, equal: Mapping[str, str], local: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """All processes' facts by rank, once all have called this.

        Args:
            equal: facts that must be the same on every process.
            local: facts that may differ.

        Raises:
            DesyncError: facts in `equal` differ; the message is the same on every rank and shows both values.
        """
        found = self._exchange_facts({**equal, **(local or {})}, self._frame_timeout)
        check_equal(dict(enumerate(found)), sorted(equal))
        return found

    def _connect(self, backend: str) -> None:
        wait, store = timedelta(seconds=self._frame_timeout), self.store.torch_store
        try:
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=wait)
        except RuntimeError as error:
            reason = f"node {self.rank} cannot reach the others by {backend}: {line(error)}"
            raise self._fail(reason) from None

    def wait(self, work: Any, peer: int) -> None:
        """Wait for a send to or a receive from `peer`; PeerLostError names the node that the run has lost."""
        try:
            work.wait()
        except RuntimeError as error:
            if timed_out(error):
                late = self._heartbeat.slowest(self.store)
                reason = f"node {late} is alive but has sent nothing for {self._frame_timeout:g} s"
                raise PeerLostError(reason) from None
            raise PeerLostError(self._late_reason() or f"node {peer} was lost: {line(error)}") from None

    def _late_reason(self) -> str | None:
        """A failure reason that arrives just after a connection was closed."""
        wait_until(lambda: self.store.failure is not None, LATE_REASON)
        return self.store.failure

    def set_progress(self, progress: int) -> None:
        """Publish this node's progress with its next heartbeat; all nodes wait for the one with the least."""
        self._heartbeat.progress = progress

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave together, or report the failure reason."""
        try:
            if error is None:
                self._finish()
            elif isinstance(error, PeerLostError):
                raise self._fail(str(error)) from error
            else:
                self._fail(_reason(self.rank, error))
        finally:
            self._end(self._heartbeat_timeout if error is None else _failure_read_time())
            if error is None:  # after an error, its destructor may wait for the peers
                dist.destroy_process_group()

    def _fail(self, reason: str) -> PeerLostError:
        """Report a failure; an error with the run's failure reason, which is the first that was reported."""
        try:
            return PeerLostError(self.store.report_failure(reason))
        except PeerLostError:  # the store is lost, too
            return PeerLostError(self._heartbeat.failure or reason)

    def _finish(self) -> None:
        """Wait until all processes have finished: frames may still be in transit."""
        self.store.set(finished(self.rank), "")
        keys = [finished(rank) for rank in range(self.size)]
        in_time = wait_until(lambda: self.store.has(*keys) or self.store.failure is not None, self._frame_timeout)
        if failure := self.store.failure:
            raise PeerLostError(failure)
        if not in_time:
            late = self._heartbeat.slowest(self.store)
            raise self._fail(f"node {late} has not finished within {self._frame_timeout:g} s")

    def _end(self, timeout: float) -> None:
        """Disconnect from the store; the process that runs it waits until the others have disconnected."""
        self._watchdog.stop()
        self._heartbeat.stop()
        keys = [disconnected(rank) for rank in range(self.size)]
        with suppress(PeerLostError):
            self.store.set(disconnected(self.rank), "")
            if self.process.runs_store:
                wait_until(lambda: self.store.has(*keys), timeout)


def _check(backend: str, heartbeat_timeout: float, frame_timeout: float) -> None:
    if not (heartbeat_timeout > 0 and frame_timeout > 0):
        got = f"{heartbeat_timeout} and {frame_timeout}"
        raise LocalError(f"World: heartbeat_timeout and frame_timeout are seconds above 0; got {got}")
    if dist.is_initialized():
        raise LocalError("World: torch.distributed is already initialised in this process; one run at a time")
    cpu = next((part.removeprefix("cpu:") for part in backend.split(",") if not part.startswith("cuda:")), "none")
    if cpu == "nccl":
        raise LocalError("World: NCCL carries no bytes on the CPU, and frames are; give backend='cpu:gloo,cuda:nccl'")
    if not dist.is_backend_available(cpu):
        raise LocalError(f"World: this torch has no backend {cpu!r}; gloo is always available")


def _reason(rank: int, error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return interrupted(rank)
    text = str(error) if isinstance(error, FewbitsError) else f"{type(error).__name__}: {error}"
    return f"node {rank} stopped: {text}"


def _failure_read_time() -> float:
    """Seconds until all processes have read a failure reason."""
    return 2 * heartbeat.INTERVAL + heartbeat.GRACE
