"""MessageGather: every rank of a torch.distributed group gets the messages of all, of any lengths, in rank order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.checks import check_number
from fewbits.codecs import large
from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.torch_errors import line, timed_out
from fewbits.errors import DesyncError, FewbitsError, LocalError, PeerLostError, WireError, words
from fewbits.replicas.note import read_note

ANNOUNCEMENTS, MESSAGES = range(2)  # tags: messages of one kind stay in order
MESSAGE, REFUSAL = range(2)  # kinds of message
LONGEST_REFUSAL = 10_000  # bytes
TIMEOUTS = "(0, 1e9]"  # seconds; torch counts in 64 bits of nanoseconds
STORE_TIME = 2.0  # seconds for the store to answer, after a failure
LATE_REASON = 0.5  # seconds: a rank reports its reason before it closes its connections
UNFINISHED = "an earlier exchange was not finished; start all ranks again from a checkpoint"
Announcement = Tensor  # (3,) int64: kind, length in bytes, note


class MessageGather:
    """An all-gather of bytes over a gloo group of its own, beside the group that the program has.

    Every rank sends its message to each of the others, so R ranks send R - 1 times what they have. An announcement of
    24 bytes precedes a message: kind, length and a note. Notes must be equal at all ranks, or none uses the messages.
    A rank that cannot make its message sends the reason instead, and all ranks raise it.

    Args:
        group: the ranks; None: all. Frames are bytes on the CPU, so this makes a gloo group of the same ranks.
        timeout: seconds to wait for another rank, which may still compute, or be gone without a trace.
        owner: the word that an error begins with.

    Raises:
        LocalError: torch.distributed is not initialised, this process is not in the group, or gloo is missing.
    """

    def __init__(self, group: Any, timeout: float, owner: str) -> None:
        check_number(f"{owner}: timeout", timeout, TIMEOUTS)
        _check_initialised(owner, group)
        if group is not None and dist.get_rank(group) < 0:
            raise LocalError(f"{owner}: this process (rank {dist.get_rank()}) is not in the group")
        self._ranks: list[int] = dist.get_process_group_ranks(group)
        self._timeout, self.rank, self.size = timeout, dist.get_rank(group), len(self._ranks)
        self._store, self._group = _store(), self._gloo(group, owner)
        self._broken = ""  # why no exchange can follow: the ranks' messages would not be of the same one

    def _gloo(self, group: Any, owner: str) -> Any:
        wait = timedelta(seconds=self._timeout)
        try:
            return dist.new_group(
                self._ranks, wait, backend="gloo", use_local_synchronization=group is not None, group_desc="fewbits"
            )
        except (RuntimeError, ValueError) as error:
            raise PeerLostError(f"{owner}: the ranks cannot reach each other by gloo: {line(error)}") from None

    def __call__(
        self, message: bytes | memoryview, note: int, most: int, peers: Collection[int] | None = None
    ) -> list[memoryview]:
        """All messages by rank, this rank's own among them.

        Args:
            message: of this rank, 0 bytes or more; a memoryview is not copied.
            note: of `noted`; it must be equal at all ranks.
            most: longest message that is taken from another rank, in bytes.
            peers: the other ranks that take part; None: all. The rest have messages of 0 bytes.

        Raises:
            DesyncError: the notes differ. The sentence is the same on all ranks.
            PeerLostError: a rank was lost, was too late, or sent the reason why it has no message. After a loss, every
                later call raises it.
            WireError: a rank announces a longer message.
        """
        return self._gather(MESSAGE, dict.fromkeys(self._taking_part(peers), message), note, most)

    def scatter(self, messages: Sequence[bytes | memoryview], note: int, most: int) -> list[memoryview]:
        """As a call, with a message for each rank: what each rank has for this one, by rank."""
        return self._gather(MESSAGE, dict(enumerate(messages)), note, most)

    def refuse(self, reason: str, peers: Collection[int] | None = None) -> None:
        """Tell the other ranks, in place of a message, why this one has none."""
        text = reason.encode()[:LONGEST_REFUSAL]
        try:
            self._gather(REFUSAL, dict.fromkeys(self._taking_part(peers), text), 0, 1 << 62)
        except FewbitsError:
            return  # the caller raises its own reason

    @contextmanager
    def refusing(self, peers: Collection[int] | None = None) -> Iterator[None]:
        """What the block raises is raised on all ranks taking part, each with the sentence of the one that failed."""
        try:
            yield
        except Exception as error:
            self.refuse(words(error) or type(error).__name__, peers)
            raise

    def _taking_part(self, peers: Collection[int] | None) -> list[int]:
        return sorted({*range(self.size)} if peers is None else {self.rank, *peers})

    def _gather(self, kind: int, messages: Mapping[int, bytes | memoryview], note: int, most: int) -> list[memoryview]:
        """Exchange messages, by the rank that each is for; this rank's own among them."""
        if self._broken:
            raise PeerLostError(self._broken)
        self._broken = UNFINISHED
        local = {rank: as_tensor(message) for rank, message in messages.items()}
        announced = {rank: torch.tensor([kind, len(message), note]) for rank, message in messages.items()}
        heads = self._exchanged(announced, dict.fromkeys(announced, 3), torch.int64, ANNOUNCEMENTS)
        for rank in heads:
            self._check(rank, heads[rank], most)
        found = self._exchanged(local, {rank: int(heads[rank][1]) for rank in heads}, torch.uint8, MESSAGES)
        self._broken = ""
        for rank in (rank for rank in heads if int(heads[rank][0]) == REFUSAL):
            text = bytes(found[rank].numpy()).decode(errors="replace")
            raise PeerLostError(f"rank {rank} refused: {text}")
        check_notes({rank: int(head[2]) for rank, head in heads.items()})
        return [memoryview(found[rank].numpy().data if rank in found else b"") for rank in range(self.size)]

    def _exchanged(
        self, local: Mapping[int, Tensor], lengths: Mapping[int, int], dtype: torch.dtype, tag: int
    ) -> dict[int, Tensor]:
        """Send a tensor to each rank while those of the given lengths arrive; nothing of no bytes travels."""
        peers = [rank for rank in local if rank != self.rank]
        into = {rank: large.empty(lengths[rank], dtype) for rank in peers}
        works = [(rank, self._started(dist.irecv, x, rank, tag)) for rank, x in into.items() if len(x)]
        works += [(rank, self._started(dist.isend, local[rank], rank, tag)) for rank in peers if len(local[rank])]
        for rank, work in works:
            try:
                work.wait()
            except RuntimeError as error:
                raise self._lost(rank, error) from None
        return {rank: into.get(rank, local[rank]) for rank in local}

    def _started(self, start: Any, tensor: Tensor, rank: int, tag: int) -> Any:
        try:
            return start(tensor, self._ranks[rank], group=self._group, tag=tag)
        except RuntimeError as error:
            raise self._lost(rank, error) from None

    def _check(self, rank: int, announced: Announcement, most: int) -> None:
        kind, length, _ = (int(x) for x in announced)
        most = LONGEST_REFUSAL if kind == REFUSAL else most
        if kind not in (MESSAGE, REFUSAL) or not 0 <= length <= most:
            raise WireError(f"rank {rank} announces {length:,} bytes of kind {kind}; at most {most:,} are taken")

    def _lost(self, rank: int, error: Exception) -> PeerLostError:
        """The error for a rank that was lost; where another rank has found a cause before, that cause."""
        reason = f"rank {rank} was lost: {line(error)}"
        if timed_out(error):
            reason = f"rank {rank} has sent nothing for {self._timeout:g} s"
        key = f"fewbits/{self._group.group_name}"
        try:
            first = in_background(lambda: self._store.compare_set(key, "", reason).decode(), STORE_TIME)()
        except (RuntimeError, TimeoutError):  # the store went with rank 0
            first = reason
        self._broken = first
        return PeerLostError(first)


def check_notes(notes: Mapping[int, int]) -> None:
    """DesyncError, the same sentence on every rank, unless all ranks' notes are equal."""
    if len(set(notes.values())) == 1:
        return
    steps, checksums = zip(*map(read_note, notes.values()), strict=True)
    if len(set(steps)) > 1:
        what, kind, values = "are not at the same step", "is at step", [str(step) for step in steps]
    else:
        what, kind = f"are all at step {steps[0]}, but their models or histories differ", "has checksum"
        values = [f"{checksum:08x}" for checksum in checksums]
    shown = ", ".join(f"rank {rank} {kind} {value}" for rank, value in zip(notes, values, strict=True))
    raise DesyncError(f"the ranks {what}: {shown}; load the states of one step on all ranks")


def _check_initialised(owner: str, group: Any) -> None:
    if not dist.is_available():
        raise LocalError(f"{owner}: this torch was built without torch.distributed")
    if not (group is None or group is dist.GroupMember.NON_GROUP_MEMBER or isinstance(group, dist.ProcessGroup)):
        raise LocalError(f"{owner}: group must be a process group of torch.distributed, or None; got {group!r}")
    if not dist.is_initialized():
        raise LocalError(
            f"{owner}: call torch.distributed.init_process_group() first, in a program that torchrun starts; for one "
            "process without a network use fb.distributed.Replicas"
        )
    if not dist.is_gloo_available():
        raise LocalError(f"{owner}: this torch has no gloo, and frames travel over a gloo group")


def _store() -> Any:
    """The store in which the ranks met."""
    return dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage] - no public way


def as_tensor(message: bytes | memoryview) -> Tensor:
    """A message as torch sends it; a memoryview is not copied.  # (len(message),) uint8"""
    if not len(message):
        return torch.zeros(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(message) if isinstance(message, bytes) else message, dtype=torch.uint8)
