"""Peer: one node's rounds over an FrameExchange; lost or damaged frames are sent again within the round."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fewbits.engines.distributed.frame_exchange import KEY_FRAME, RESEND, FrameExchange
from fewbits.errors import WireError
from fewbits.learn.gossip import Node

TRIES = 4  # of one frame, before the round goes on without it
OTHER = "another neighbour's frame was lost, and with it the sum of all"


class Peer:
    """Runs one node by the contract in `Node`, with its neighbours at the other ends of an FrameExchange.

    The peer asks again for a frame that is damaged. After a gap in a link's sequence, it asks for a key frame. Both
    count as repairs. A frame that stays of no use is left out in this round, and `Node.watch` counts it.
    """

    def __init__(
        self, node: Node, exchange: FrameExchange, on_frame: Callable[[int, int, bytes], None] | None = None
    ) -> None:
        """`on_frame` gets (round, sender, frame) of every frame that this node sends."""
        self.node, self._exchange, self._on_frame = node, exchange, on_frame
        self._pending: list[int] = []  # neighbours whose frame the node has not taken yet, ascending
        self._arrived: dict[int, memoryview] = {}  # frames that wait for one before them
        self._errors: dict[int, str] = {}  # what was wrong with the last frame, by neighbour

    def round(self, step: Callable[[], bytes]) -> int:
        """Run one iteration; returns the bytes of frames that were sent again.

        `step` returns the node's frame; it is called when the node is active, after the receives have started.
        """
        node, number, senders = self.node, self.node.round + 1, self.node.expected
        self._exchange.open(number, senders)
        frame = self._step(number, step) if node.active else b""
        self._pending, self._arrived = list(senders), {}
        requests = self._receive(senders)
        self._exchange.answer(senders, requests)
        if not requests:
            node.mix()  # while the answers travel
        repairs = self._repair(number, frame, requests)
        if node.round < number:
            node.mix()
        return repairs

    def _step(self, number: int, step: Callable[[], bytes]) -> bytes:
        frame = step()
        self._exchange.send(frame, self.node.neighbours)
        if self._on_frame:
            self._on_frame(number, self.node.me, frame)
        return frame

    def _receive(self, senders: Collection[int]) -> dict[int, int]:
        """Give arriving frames of these senders to the node, in ascending order; the requests that remain.

        A neighbour that is no sender of now has our answer already and would not send again: it is left out.
        """
        for received in self._exchange.receive():
            self._arrived[received.peer] = received.frame
            self._take_frames()
        self._leave_out(self.node.wanted - {*senders})
        wanted = self.node.wanted
        self._arrived = {j: frame for j, frame in self._arrived.items() if j not in wanted}  # a key frame replaces it
        return {j: KEY_FRAME if j in wanted else RESEND for j in self._pending if j not in self._arrived}

    def _take_frames(self) -> None:
        """Give the node all frames before the first missing one: float sums depend on the order."""
        node = self.node
        while self._pending and self._pending[0] in self._arrived:
            j = self._pending[0]
            try:
                node.receive(j, self._arrived.pop(j))
            except WireError as error:  # damaged, foreign or repeated, or an earlier frame was lost
                self._errors[j] = str(error)
                self._pending = sorted({*self._pending, *node.wanted})
                return
            self._pending.pop(0)

    def _leave_out(self, neighbours: Collection[int]) -> None:
        for j in sorted(neighbours):
            self.node.leave_out(j, self._errors.pop(j, OTHER))
        self._pending = [j for j in self._pending if j not in neighbours]

    def _repair(self, number: int, frame: bytes, requests: dict[int, int]) -> int:
        """Answer the neighbours' requests and repeat ours until none remains; returns the bytes sent.

        Both ends of a link count the same tries, so that they give up together.
        """
        sent, asked = 0, self._exchange.requests()
        for _ in range(TRIES):
            if not requests and not asked:
                break
            self._exchange.open(number, requests)
            sent += self._send_again(frame, asked)
            senders, requests = set(requests), self._receive(requests)
            self._exchange.answer(senders, requests)
            asked = self._exchange.requests()
        while self._pending:
            self._take_frames()
            self._leave_out(self._pending[:1])
        return sent

    def _send_again(self, frame: bytes, asked: dict[int, int]) -> int:
        """Send the frame or a key frame to the nodes that asked for it; returns the bytes sent."""
        sent = 0
        for kind in sorted(set(asked.values())):
            data = self.node.key_frame() if kind == KEY_FRAME else frame
            receivers = [j for j, request in asked.items() if request == kind]
            self._exchange.send(data, receivers)
            sent += len(data) * len(receivers)
        return sent
