"""Exchange: frames of any length between neighbours, by torch.distributed's point-to-point messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.engines.distributed.world import World
from fewbits.errors import WireError

FINE, AGAIN, KEY = range(3)  # answers: the frame is in; send it again; send a key frame
HEADS, BODIES, ANSWERS = range(3)  # tags: messages of one kind stay in order


class Arrived(NamedTuple):
    """What a neighbour sent in a round."""

    peer: int
    frame: memoryview


class Exchange:
    """One round at a time: `open` before the round's computation, then `send`, `receive`, `answer` and `asked`.

    A frame is announced by its length, the head, for which `open` posts the receives, so that heads fly while this node
    still computes; bodies of neighbours arrive while others are decoded. The answers, a byte each, say who needs a
    frame again; they fly while this node mixes.
    """

    def __init__(self, world: World, limit: int) -> None:
        """`limit`: the longest frame in bytes that is taken from a neighbour."""
        check_whole("Exchange: the longest frame", limit, 1, numpy=True, hint=" (of bytes)")
        self._world, self._limit = world, limit
        self._round = 0
        self._heads: dict[int, tuple[Tensor, Any]] = {}
        self._answers: dict[int, tuple[Tensor, Any]] = {}
        self._sending: list[tuple[Any, int, Tensor]] = []  # the tensors must live until they are sent
        self.sent_bytes = 0  # heads, frames and answers, to all neighbours; TCP's own headers not counted

    def open(self, round: int, senders: Collection[int]) -> None:
        """Be ready for this round's heads from these neighbours."""
        self._round = round
        self._world.advance(2 * round)
        self._heads = {peer: self._expect(torch.zeros(1, dtype=torch.int64), peer, HEADS) for peer in sorted(senders)}

    def send(self, frame: bytes, receivers: Collection[int]) -> None:
        """Send one frame to these neighbours; returns before it is sent."""
        body = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        for peer in sorted(receivers):
            self._send(torch.tensor([len(frame)], dtype=torch.int64), peer, HEADS)
            self._send(body, peer, BODIES)
            self._answers[peer] = self._expect(torch.zeros(1, dtype=torch.uint8), peer, ANSWERS)
        self._world.advance(2 * self._round + 1)

    def receive(self) -> Iterator[Arrived]:
        """What the neighbours sent, in ascending order, each as soon as it and those before it are there.

        Raises WireError naming a neighbour whose frame is too long, and GoneError.
        """
        bodies = {}
        for peer, head in self._taken(self._heads):
            body = torch.empty(self._length(int(head[0]), peer), dtype=torch.uint8)
            bodies[peer] = self._expect(body, peer, BODIES)
        for peer, body in self._taken(bodies):
            yield Arrived(peer, memoryview(body.numpy().data))

    def answer(self, senders: Collection[int], needs: Mapping[int, int]) -> None:
        """Tell those whose frames came what is needed of them: FINE for those that `needs` does not name."""
        for peer in sorted(senders):
            self._send(torch.tensor([needs.get(peer, FINE)], dtype=torch.uint8), peer, ANSWERS)

    def asked(self) -> dict[int, int]:
        """What the receivers of this node's frame need, but for those that are FINE; all is delivered then.

        WireError for an answer that there is not.
        """
        found = {peer: int(answer[0]) for peer, answer in self._taken(self._answers) if int(answer[0]) != FINE}
        for peer, need in found.items():
            if need not in (AGAIN, KEY):
                raise WireError(f"node {peer} answers {need}; {FINE}, {AGAIN} or {KEY} are expected")
        for work, peer, _ in self._sending:
            self._world.wait(work, peer)
        self._sending.clear()
        return found

    def _send(self, tensor: Tensor, peer: int, tag: int) -> None:
        self._sending.append((_posted(dist.isend, tensor, peer, tag), peer, tensor))
        self.sent_bytes += tensor.nbytes

    def _expect(self, tensor: Tensor, peer: int, tag: int) -> tuple[Tensor, Any]:
        return tensor, _posted(dist.irecv, tensor, peer, tag)

    def _taken(self, expected: dict[int, tuple[Tensor, Any]]) -> Iterator[tuple[int, Tensor]]:
        """Each peer and what came from it; nothing is expected any more."""
        for peer in list(expected):
            tensor, work = expected.pop(peer)
            self._world.wait(work, peer)
            yield peer, tensor

    def _length(self, length: int, peer: int) -> int:
        if not 0 < length <= self._limit:
            raise WireError(f"node {peer} announces a frame of {length:,} bytes; 1 to {self._limit:,} are expected")
        return length


def _posted(post: Any, tensor: Tensor, peer: int, tag: int) -> Any:
    try:
        return post(tensor, peer, tag=tag)
    except RuntimeError as error:  # the connection is closed already
        return _Failed(error)


class _Failed:
    """A message that could not even be posted: its wait says why."""

    def __init__(self, error: RuntimeError) -> None:
        self._error = error

    def wait(self) -> None:
        raise self._error
