"""FrameExchange: frames of any length between neighbours, by torch.distributed's point-to-point messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.engines.distributed.world import World
from fewbits.errors import LocalError, WireError

ACCEPTED, RESEND, KEY_FRAME = range(3)  # answers
LENGTHS, FRAMES, ANSWERS = range(3)  # tags: messages of one kind stay in order


class ReceivedFrame(NamedTuple):
    """A frame and the neighbour that sent it."""

    peer: int
    frame: memoryview


class FrameExchange:
    """The frames of one round at a time: call `open`, compute, then call `send`, `receive`, `answer` and `requests`.

    A length of 8 bytes precedes every frame. `open` starts the receives of the lengths, so that lengths travel while
    this node still computes. Frames of neighbours arrive while others are decoded. Every frame is answered with one
    byte, while the receiver mixes.

    Args:
        world: the processes of the run.
        max_bytes: longest frame that is accepted from a neighbour, in bytes.

    Raises:
        LocalError: `max_bytes` is below 1.

    In every round, at every node:

        exchange.open(round, neighbours)
        exchange.send(frame, neighbours)
        for peer, frame in exchange.receive():
            ...
        exchange.answer(neighbours, {})      # all frames are accepted
        assert not exchange.requests()
    """

    def __init__(self, world: World, max_bytes: int) -> None:
        if max_bytes < 1:
            raise LocalError(f"FrameExchange: the longest frame must be 1 byte or more; got {max_bytes}")
        self._world, self._max_bytes = world, max_bytes
        self._round = 0
        self._lengths: dict[int, tuple[Tensor, Any]] = {}
        self._answers: dict[int, tuple[Tensor, Any]] = {}
        self._sends: list[tuple[Any, int, Tensor]] = []  # the tensors must live until they are sent
        self.sent_bytes = 0  # lengths, frames and answers to all neighbours, without TCP's headers

    def open(self, round: int, senders: Collection[int]) -> None:
        """Start to receive this round's lengths from these neighbours."""
        self._round = round
        self._world.set_progress(2 * round)
        self._lengths = {peer: self._recv(torch.zeros(1, dtype=torch.int64), peer, LENGTHS) for peer in sorted(senders)}

    def send(self, frame: bytes, receivers: Collection[int]) -> None:
        """Start to send one frame to these neighbours; does not wait."""
        data = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        for peer in sorted(receivers):
            self._send(torch.tensor([len(frame)], dtype=torch.int64), peer, LENGTHS)
            self._send(data, peer, FRAMES)
            self._answers[peer] = self._recv(torch.zeros(1, dtype=torch.uint8), peer, ANSWERS)
        self._world.set_progress(2 * self._round + 1)

    def receive(self) -> Iterator[ReceivedFrame]:
        """The neighbours' frames in ascending order of their senders, each as soon as possible.

        Raises WireError naming a neighbour whose frame is too long, and PeerLostError.
        """
        frames = {}
        for peer, length in self._finished(self._lengths):
            data = torch.empty(self._checked(int(length[0]), peer), dtype=torch.uint8)
            frames[peer] = self._recv(data, peer, FRAMES)
        for peer, data in self._finished(frames):
            yield ReceivedFrame(peer, memoryview(data.numpy().data))

    def answer(self, senders: Collection[int], requests: Mapping[int, int]) -> None:
        """Answer the senders of this round's frames: with their request, or with ACCEPTED."""
        for peer in sorted(senders):
            self._send(torch.tensor([requests.get(peer, ACCEPTED)], dtype=torch.uint8), peer, ANSWERS)

    def requests(self) -> dict[int, int]:
        """The receivers' requests, RESEND or KEY_FRAME, by node; waits until all messages are delivered.

        Raises WireError for an unknown answer.
        """
        answers = {peer: int(answer[0]) for peer, answer in self._finished(self._answers)}
        for peer, answer in answers.items():
            if answer not in (ACCEPTED, RESEND, KEY_FRAME):
                raise WireError(f"node {peer} answers {answer}; {ACCEPTED}, {RESEND} or {KEY_FRAME} are allowed")
        for work, peer, _ in self._sends:
            self._world.wait(work, peer)
        self._sends.clear()
        return {peer: answer for peer, answer in answers.items() if answer != ACCEPTED}

    def _send(self, tensor: Tensor, peer: int, tag: int) -> None:
        self._sends.append((_started(dist.isend, tensor, peer, tag), peer, tensor))
        self.sent_bytes += tensor.nbytes

    def _recv(self, tensor: Tensor, peer: int, tag: int) -> tuple[Tensor, Any]:
        return tensor, _started(dist.irecv, tensor, peer, tag)

    def _finished(self, receives: dict[int, tuple[Tensor, Any]]) -> Iterator[tuple[int, Tensor]]:
        """Each peer and what it sent; empties `receives`."""
        for peer in list(receives):
            tensor, work = receives.pop(peer)
            self._world.wait(work, peer)
            yield peer, tensor

    def _checked(self, length: int, peer: int) -> int:
        if not 0 < length <= self._max_bytes:
            raise WireError(f"node {peer} announces a frame of {length:,} bytes; 1 to {self._max_bytes:,} are allowed")
        return length


def _started(start: Any, tensor: Tensor, peer: int, tag: int) -> Any:
    try:
        return start(tensor, peer, tag=tag)
    except RuntimeError as error:  # the connection is already closed
        return _FailedWork(error)


class _FailedWork:
    """A message that could not start; `wait` raises the reason."""

    def __init__(self, error: RuntimeError) -> None:
        self._error = error

    def wait(self) -> None:
        raise self._error
