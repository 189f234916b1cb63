"""Inbox: what a node receives from its neighbours, in one round after the other."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from fewbits.codecs import Lift
from fewbits.errors import DesyncError, LocalError
from fewbits.learn.gossip import key_frame
from fewbits.learn.gossip.frame_values import FrameValues
from fewbits.learn.gossip.mixture import Mixture
from fewbits.learn.gossip.neighbour_watch import NeighbourWatch
from fewbits.learn.gossip.vectors import Vectors
from fewbits.links import Receiver
from fewbits.rng import Key
from fewbits.spec import TreeSpec
from fewbits.wire import Frame


class Inbox:
    """The receiving ends of a node's links, and the mixture that their frames keep up to date.

    Args:
        watch: decides which values are left out.
        vectors: the node's.
        mixture: the sum over its neighbours.
        frames: reads what a frame holds.
        codec: of every frame; `spec` and `common` as for a Receiver.
        neighbours: their numbers, ascending.
    """

    def __init__(
        self,
        watch: NeighbourWatch,
        vectors: Vectors,
        mixture: Mixture,
        frames: FrameValues,
        codec: Lift,
        spec: TreeSpec,
        common: Key,
        neighbours: Collection[int],
    ) -> None:
        self.watch, self.mixture, self._vectors, self._frames = watch, mixture, vectors, frames
        self._link = codec, spec, common
        self.receivers = {j: Receiver(*self._link) for j in neighbours}
        self.wanted: set[int] = set()  # neighbours whose key frame is needed
        self.received: set[int] = set()  # neighbours whose frame of this round has arrived

    def receive(self, j: int, frame: bytes | memoryview, round: int, ours: Tensor) -> None:
        """Take neighbour j's frame of this round, or its key frame; `ours` is the node's model, (S,)."""
        self._check(j)
        header = Frame.parse(frame).header
        if header.snapshot:
            self._adopt(j, frame, round, ours)
            return
        receiver = self.receivers[j]
        if j in self.wanted:
            raise DesyncError(f"node {self.watch.node} waits for a key frame of node {j}; got frame {header.sequence}")
        try:
            vector = self._frames.read(receiver.receive(frame))
        except DesyncError:
            if header.sequence >= receiver.expects:  # else the frame was repeated
                self._lost(j)
            raise
        change = vector if self._frames.residual else vector - self._vectors.public
        if self.watch.refuses(j, round, vector, ours, change):
            self._stand_in(j)
        else:
            self.mixture.add(j, vector)
        self.received.add(j)

    def _adopt(self, j: int, frame: bytes | memoryview, round: int, ours: Tensor) -> None:
        """Replace j's public vector."""
        if j not in self.wanted:
            raise DesyncError(f"node {self.watch.node} wants no key frame of node {j}")
        public = key_frame.read(self.receivers[j], frame, len(ours))
        refused = self.watch.refuses(j, round, public, ours, None)
        self.mixture.replace(j, self._vectors.public if refused else public)
        self.wanted.discard(j)
        self.received.add(j)

    def leave_out(self, j: int, round: int, why: str) -> None:
        """Go on without neighbour j's frame of this round, and without its key frame."""
        self._check(j)
        self.watch.count(j, round, why)
        if j in self.wanted:
            self.wanted.discard(j)
            self.mixture.replace(j, self._vectors.public)
            self.receivers[j] = Receiver(*self._link)  # so that j's next frame is out of order, and a key frame heals
        elif j not in self.received:
            self._stand_in(j)
        self.received.add(j)

    def _stand_in(self, j: int) -> None:
        """Let j hold what this node holds; where a sum of increments is all there is, what it held before."""
        if not self._frames.residual:
            self.mixture.add(j, self._vectors.public)
        elif j in self._vectors.copies:
            self.mixture.replace(j, self._vectors.public)

    def ask(self, j: int) -> None:
        """Give up on neighbour j's frame of this round."""
        self._check(j)
        self._lost(j)

    def _lost(self, j: int) -> None:
        """Ask for j's key frame; without copies, the sum is wrong as a whole, so ask all neighbours."""
        if self._vectors.copies or not self._frames.residual:
            self.wanted.add(j)
        else:
            self.wanted.update(self.receivers)
            self.received.clear()
            self.mixture.clear()

    def _check(self, j: int) -> None:
        if j not in self.receivers:
            raise LocalError(
                f"node {self.watch.node} has no link with node {j}; its neighbours are {list(self.receivers)}"
            )

    def close(self) -> None:
        """End the round."""
        self.received.clear()
        self.watch.close()
