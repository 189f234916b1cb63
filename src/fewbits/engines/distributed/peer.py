"""Peer: one node's rounds over an Exchange; what was lost or damaged on the way is sent again within the round."""

from __future__ import annotations

from collections.abc import Callable

from fewbits.engines.distributed.exchange import AGAIN, KEY, Exchange
from fewbits.errors import WireError
from fewbits.learn.gossip import Node

TRIES = 4  # of one frame, before the run is given up


class Peer:
    """Plays one node, as Node's own page says, with its neighbours at the other ends of an Exchange.

    A frame that cannot be used is asked for again, one that is missing in the link's sequence is replaced by a key
    frame; both count as repairs.
    """

    def __init__(self, node: Node, exchange: Exchange, tap: Callable[[int, int, bytes], None] | None = None) -> None:
        """`tap` sees (round, sender, frame) of all frames that this node sends."""
        self.node, self._exchange, self._tap = node, exchange, tap
        self._due: list[int] = []  # whose frame the node does not have yet, ascending
        self._came: dict[int, memoryview] = {}  # frames that wait for one before them
        self._trouble = ""  # the last

    def round(self, step: Callable[[], bytes]) -> int:
        """One iteration; bytes of the frames that had to be sent again.

        `step` is called once the heads are expected, if the node is awake, and gives its frame. WireError names a
        neighbour whose frame could not be used however often it was sent.
        """
        node, number, senders = self.node, self.node.round + 1, self.node.expected
        self._exchange.open(number, senders)
        frame = b""
        if node.awake:
            frame = step()
            self._exchange.send(frame, node.neighbours)
            if self._tap:
                self._tap(number, node.me, frame)
        self._due, self._came = list(senders), {}
        needs = self._receive()
        self._exchange.answer(senders, needs)
        if not needs:
            node.mix()  # while the answers fly
        repairs = self._repair(number, frame, needs)
        if node.round < number:
            node.mix()
        return repairs

    def _receive(self) -> dict[int, int]:
        """Give the node what comes, in ascending order of the senders; who has to send what once more."""
        for found in self._exchange.receive():
            self._came[found.peer] = found.frame
            self._take()
        wanted = self.node.wanted
        self._came = {j: frame for j, frame in self._came.items() if j not in wanted}  # a key frame replaces it
        return {j: KEY if j in wanted else AGAIN for j in self._due if j not in self._came}

    def _take(self) -> None:
        """What came, as far as none is missing before it: sums depend on the order."""
        node = self.node
        while self._due and self._due[0] in self._came:
            j = self._due[0]
            try:
                node.receive(j, self._came.pop(j))
            except WireError as error:  # damaged, foreign, repeated, or one before it was lost
                self._trouble = f"node {j}'s frame: {error}"
                self._due = sorted({*self._due, *node.wanted})
                return
            self._due.pop(0)

    def _repair(self, number: int, frame: bytes, needs: dict[int, int]) -> int:
        """Send and get once more until all neighbours are content; the bytes sent."""
        sent, asked, senders = 0, self._exchange.asked(), set(needs)
        for _ in range(TRIES):
            if not needs and not asked:
                return sent
            if not senders >= needs.keys():
                break  # some of them do not know of it any more
            self._exchange.open(number, needs)
            for kind, data in ((AGAIN, frame), (KEY, self.node.key_frame() if KEY in asked.values() else b"")):
                peers = [j for j, found in asked.items() if found == kind]
                if peers:
                    self._exchange.send(data, peers)
                    sent += len(data) * len(peers)
            senders, needs = set(needs), self._receive()
            self._exchange.answer(senders, needs)
            asked = self._exchange.asked()
        trouble = self._trouble or f"ours, of which nodes {sorted(asked)} make nothing"
        raise WireError(f"node {self.node.me}, round {number}: what was sent again is no better: {trouble}")
