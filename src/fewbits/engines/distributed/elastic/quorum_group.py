"""QuorumGroup: the connections among the ranks of one quorum, by a gloo group of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.codecs import large
from fewbits.engines.distributed.message_gather import as_tensor
from fewbits.engines.distributed.torch_errors import line
from fewbits.errors import FewbitsError, WireError

LENGTHS, MESSAGES, SNAPSHOT_LENGTHS, SNAPSHOTS, NOTHING = range(5)  # tags: messages of one kind stay in order
FOREVER = timedelta(days=1000)  # whoever waits in the background is watched by the one that asks
AT_ONCE = timedelta(milliseconds=1)
GRACE = 3.0  # seconds for a thread to end


class LostRankError(FewbitsError):
    """Ranks of a quorum are lost, or it has ended; its members form the next one.

    Args:
        reason: a sentence.
        ranks: those that are lost, as far as this process knows.
    """

    def __init__(self, reason: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(reason)
        self.ranks = tuple(ranks)


class Gathered(NamedTuple):
    """The messages of all ranks, and the notes beside them."""

    messages: dict[int, memoryview]
    notes: dict[int, int]


class QuorumGroup:
    """Messages of any length among the ranks of a quorum.

    gloo tells of a closed connection only where it waits for something. So a thread for each peer waits for a byte that
    never comes; `closed` has the ranks whose connections closed, with gloo's words. A process that ends closes them at
    once, and so does one that leaves the group, which tells the store before.

    Args:
        store: of this group alone.
        ranks: ascending.
        rank: this one.
        timeout: seconds within which all must connect.

    Raises:
        LostRankError: they cannot.
    """

    def __init__(self, store: Any, ranks: Sequence[int], rank: int, timeout: float) -> None:
        self.ranks, self.rank = list(ranks), rank
        self.peers = [peer for peer in ranks if peer != rank]
        self.closed: dict[int, str] = {}
        self.waits_for: int | None = None  # the peer whose message comes next
        self._group: Any = None
        self._threads: list[threading.Thread] = []
        if not self.peers:
            return
        kind: Any = dist.ProcessGroupGloo  # pyright: ignore[reportPrivateImportUsage] - a class of torch's own back end
        try:
            self._group = kind(store, self.ranks.index(rank), len(ranks), timedelta(seconds=timeout))
        except RuntimeError as error:
            raise LostRankError(f"ranks {self.ranks} cannot reach each other by gloo: {line(error)}") from None
        for peer in self.peers:
            nothing = torch.zeros(1, dtype=torch.uint8)
            arguments = (peer, self._receive(nothing, peer, NOTHING), nothing)
            thread = threading.Thread(target=self._watch, args=arguments, name="fewbits-watch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def gather(self, message: bytes | memoryview, note: int, most: int) -> Gathered:
        """All messages, of at most `most` bytes, this rank's own among them.

        Raises:
            LostRankError: a connection was closed.
            WireError: a rank announces a longer message.
        """
        announced, local = torch.tensor([len(message), note]), as_tensor(message)
        works = [(peer, self._send(announced, peer, LENGTHS)) for peer in self.peers]
        heads = {peer: torch.zeros(2, dtype=torch.int64) for peer in self.peers}
        self._finish([*((p, self._receive(x, p, LENGTHS)) for p, x in heads.items()), *works])
        for peer, head in heads.items():
            _check_length(peer, int(head[0]), most)
        found = {peer: large.empty(int(head[0]), torch.uint8) for peer, head in heads.items()}
        works = [(p, self._receive(x, p, MESSAGES)) for p, x in found.items() if len(x)]
        works += [(peer, self._send(local, peer, MESSAGES)) for peer in self.peers if len(local)]
        self._finish(works)
        found[self.rank], heads[self.rank] = local, announced
        messages = {rank: memoryview(found[rank].numpy().data) for rank in self.ranks}
        return Gathered(messages, {rank: int(heads[rank][1]) for rank in self.ranks})

    def send(self, frame: memoryview, receivers: Sequence[int]) -> None:
        """Send a snapshot to these ranks; LostRankError as for `gather`."""
        data, length = as_tensor(frame), torch.tensor([len(frame)])
        for tensor, tag in ((length, SNAPSHOT_LENGTHS), (data, SNAPSHOTS)):
            self._finish([(peer, self._send(tensor, peer, tag)) for peer in receivers])

    def receive(self, sender: int, most: int) -> memoryview:
        """The snapshot that a rank sends; errors as for `gather`."""
        length = torch.zeros(1, dtype=torch.int64)
        self._finish([(sender, self._receive(length, sender, SNAPSHOT_LENGTHS))])
        _check_length(sender, int(length), most)
        data = large.empty(int(length), torch.uint8)
        self._finish([(sender, self._receive(data, sender, SNAPSHOTS))] if len(data) else [])
        return memoryview(data.numpy().data)

    def close(self) -> None:
        """Leave the group; the store must know before. All that waits in it ends, here and at the peers."""
        group, self._group = self._group, None
        if group is None:
            return
        for peer in self.peers:
            with suppress(RuntimeError):  # a wait that takes too long is the one way to close gloo's connections
                group.recv([torch.zeros(1, dtype=torch.uint8)], self.ranks.index(peer), NOTHING).wait(AT_ONCE)
        for thread in self._threads:
            thread.join(GRACE)

    def _watch(self, peer: int, work: Any, nothing: Tensor) -> None:
        try:
            self._finish_one(peer, work)
        except LostRankError as error:
            if self._group is not None:
                self.closed[peer] = str(error)
        assert len(nothing) == 1  # gloo may write to it until here

    def _finish(self, works: Sequence[tuple[int, Any]]) -> None:
        for peer, work in works:
            self.waits_for = peer
            self._finish_one(peer, work)
        self.waits_for = None

    def _finish_one(self, peer: int, work: Any) -> None:
        if isinstance(work, LostRankError):
            raise work
        try:
            work.wait(FOREVER)
        except RuntimeError as error:
            raise self._lost(peer, error) from None

    def _send(self, tensor: Tensor, peer: int, tag: int) -> Any:
        return self._started("send", tensor, peer, tag)

    def _receive(self, tensor: Tensor, peer: int, tag: int) -> Any:
        return self._started("recv", tensor, peer, tag)

    def _started(self, what: str, tensor: Tensor, peer: int, tag: int) -> Any:
        """The work, or why it could not start."""
        if self._group is None:
            return LostRankError("the group was left")
        try:
            return getattr(self._group, what)([tensor], self.ranks.index(peer), tag)
        except RuntimeError as error:
            return self._lost(peer, error)

    def _lost(self, peer: int, error: Exception) -> LostRankError:
        return LostRankError(f"rank {peer} was lost: {line(error)}", [peer])


def _check_length(peer: int, length: int, most: int) -> None:
    if not 0 <= length <= most:
        raise WireError(f"rank {peer} announces {length:,} bytes; at most {most:,} are taken")
