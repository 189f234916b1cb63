"""Node: one participant of a training without a server; it receives frames and returns frames."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewbits.errors import DesyncError, LocalError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import key_frame
from fewbits.learn.gossip.auto import tuned
from fewbits.learn.gossip.frame_values import FrameValues
from fewbits.learn.gossip.half_step import Train, half_step
from fewbits.learn.gossip.inbox import Inbox
from fewbits.learn.gossip.method import GossipMethod
from fewbits.learn.gossip.mixture import Mixture
from fewbits.learn.gossip.neighbour_watch import NeighbourWatch
from fewbits.learn.gossip.node_dump import NORMS, START, check_dump, check_names, dump_links, load_links
from fewbits.learn.gossip.vectors import COPY, Vectors, memory_form
from fewbits.links import Sender
from fewbits.rng import Key
from fewbits.topology import Network, Topology


class Node:
    """Node `me` of a network. An engine runs one iteration of every node like this, with frames as its only traffic:

        if node.active:
            frame = node.step(train)         # local steps, then ONE frame, the same for all `node.neighbours`
        for j in node.expected:              # the neighbours that are active in this round, ascending
            node.receive(j, frame_of_j)      # an inactive node receives frames, too
        node.mix()                           # consensus and proximal step; the round ends

    `round` counts finished rounds. The network's key decides who is active in the coming round, so every node knows it
    of all. An inactive node has no frame (`step` raises LocalError). An engine delivers a round's frames after the
    node's own step, in ascending order of their senders. Every such engine gives the same frames and models.

    Errors: `receive` raises WireError for bytes that are no frame of this link. Nothing has changed then; ask for the
    frame again. It raises DesyncError for a frame that is not the next one; a repeated frame needs no further action.
    After a lost frame, `wanted` names the neighbours whose `key_frame()` the node needs: with two-vector memory, all.
    When nothing arrived, call `ask`. A neighbour makes its key frame after its `step` of this round; `receive` takes it
    instead of the frame. Values that would ruin the training are left out and counted in `watch`. When no frame can be
    used, call `leave_out`, and the round goes on. `mix` raises DesyncError while nodes are missing.

    All nodes need the same model (bit for bit; compare a digest), method, network and key. Several nodes may use one
    model in turn when each has `vectors` of its own.

    Args:
        model: the model, with its initial weights.
        method: the method of all nodes.
        network: the network of all nodes.
        me: this node's number, 0..n-1.
        key: the key of the run, the same at all nodes.
        memory: "two" or "copies", see `Vectors`; None: what the network needs.
        vectors: memory for the node's vectors; None: new memory.

    Raises:
        LocalError: an argument has the wrong type, or the network is not connected.

    >>> import torch
    >>> from fewbits import topology
    >>> from fewbits.learn import DSGD
    >>> pair = [Node(torch.nn.Linear(2, 1), DSGD(), topology.ring(2), me, Key(0)) for me in (0, 1)]
    >>> def train(model):
    ...     model.params.sub_(0.1)
    ...     return 0.1
    >>> frames = [node.step(train) for node in pair]
    >>> for node in pair:
    ...     for j in node.expected:
    ...         node.receive(j, frames[j])
    ...     node.mix()
    >>> torch.allclose(pair[0].flat.params, pair[1].flat.params)
    True
    """

    def __init__(
        self,
        model: nn.Module | FlatModel,
        method: GossipMethod,
        network: Network,
        me: int,
        key: Key,
        memory: str | None = None,
        vectors: Vectors | None = None,
    ) -> None:
        _check(method, network, me, key)
        self.flat = model if isinstance(model, FlatModel) else FlatModel(model)
        self.spec = shared_values.spec(self.flat)
        self.method = tuned(method, self.spec, network, key.fold("gamma"))
        self.network, self.me, self.neighbours = network, me, network.neighbours(me)
        memory_form(method, network, memory)
        self.vectors = vectors or Vectors.fresh(self.flat, method, network, me, memory)
        codec, common = shared_values.with_buffers(method.lift, self.spec), key.fold("common")
        self.sender = Sender(codec, self.spec, key.fold("node", me), common)
        self.round = 0  # finished rounds
        self.watch = NeighbourWatch(me, method.norm_bound)  # knows which frames were left out, by neighbour
        self._mixture = Mixture(self.vectors, self._coming_weights, len(self.flat.shared_params))
        self._frames = FrameValues(self.flat, method.residual)
        self.inbox = Inbox(
            *(self.watch, self.vectors, self._mixture, self._frames, codec, self.spec, common, self.neighbours)
        )
        self._eta: float | None = None  # eta of this round's step; None before the step
        self._shared = self._part(self.vectors.x)
        self._start()

    def _start(self) -> None:
        vectors = self.vectors
        vectors.x.copy_(self.flat.whole)
        if self.method.residual and getattr(self.method, "start", "") == "common":
            vectors.public.copy_(self._shared)
            self._mixture.start(vectors.public)

    def _part(self, x: Tensor) -> Tensor:
        """The shared numbers, (S,), of a whole model, (P+B,)."""
        first = len(self.flat.private[0])
        return x[first : first + len(self.flat.shared)]

    @property
    def _topology(self) -> Topology:
        """The topology of the coming round."""
        return self.network.at(self.round + 1)

    @property
    def _coming_weights(self) -> dict[int, float]:
        return dict(self._topology.neighbour_weights(self.me))

    @property
    def active(self) -> bool:
        """Whether this node takes part in the coming round."""
        return self.me not in self._topology.inactive

    @property
    def expected(self) -> tuple[int, ...]:
        """Neighbours that send a frame in the coming round, ascending."""
        inactive = self._topology.inactive
        return tuple(j for j in self.neighbours if j not in inactive)

    def step(self, train: Train) -> bytes:
        """Train the model and return one frame for all neighbours.

        When `train` returns 0, the node takes no step in this round: its model and its momentum stay, whatever `train`
        left, and it only takes part in the consensus.

        Raises LocalError when this node is inactive or has already stepped, or when a tensor is not finite; then
        nothing has changed, and it may step again.
        """
        if not self.active or self._eta is not None:
            problem = "it is inactive" if not self.active else "it has taken its step; mix() first"
            raise LocalError(f"node {self.me}, round {self.round + 1}: {problem}")
        vectors, method = self.vectors, self.method
        before = vectors.x.clone() if vectors.x.data_ptr() == self.flat.whole.data_ptr() else vectors.x
        try:
            half, velocity, eta = half_step(train, self.flat, vectors, before, method.momentum)
            if method.mixes_first:
                half = method.combine(half, self._mixture.consensus(), eta, self.spec)
            frame = self.sender.send(self._frames.sent(half, vectors.public))
        except BaseException:
            self.flat.whole.copy_(before)
            raise
        decoded = self._frames.read(self.sender.value)  # as the neighbours do
        self.watch.begin(decoded if method.residual else half - self._part(before).cpu())
        vectors.x.copy_(self.flat.whole)
        vectors.velocity.copy_(velocity)
        self.sender.commit()
        vectors.public.copy_(vectors.public + decoded if method.residual else decoded)
        self._shared.copy_(half)
        self._eta = eta
        return frame

    @property
    def wanted(self) -> set[int]:
        """Neighbours whose key frame this node needs."""
        return self.inbox.wanted

    def receive(self, j: int, frame: bytes | memoryview) -> None:
        """Take neighbour j's frame of this round, or its key frame."""
        self.inbox.receive(j, frame, self.round + 1, self._shared)

    def ask(self, j: int) -> None:
        """Give up on neighbour j's frame of this round; `wanted` then names whose key frames this node needs."""
        self.inbox.ask(j)

    def leave_out(self, j: int, why: str) -> None:
        """Go on without neighbour j's frame of this round, and without its key frame; it is counted in `watch`.

        Where j's public vector is unknown, this node's own stands for it in this round. A key frame repairs the link in
        the next one.
        """
        self.inbox.leave_out(j, self.round + 1, why)

    def key_frame(self) -> bytes:
        """The public vector after the last step, in float32; a neighbour can take the next frame after it."""
        return key_frame.write(self.sender.snapshot(), self.vectors.public)

    def mix(self) -> None:
        """Finish the round: consensus and proximal step. DesyncError when frames are missing."""
        missing = sorted(self.wanted | (set(self.expected) - self.inbox.received))
        if missing or (self.active and self._eta is None):
            waits = f"waits for {'key ' if self.wanted else ''}frames of nodes {missing}"
            raise DesyncError(f"node {self.me}, round {self.round + 1}, {waits if missing else 'has no step'}")
        method = self.method
        if method.residual:
            self._mixture.reweigh(self._coming_weights)
        if self._eta is not None and not method.mixes_first:
            self._shared.copy_(method.combine(self._shared.cpu(), self._mixture.consensus(), self._eta, self.spec))
        self._finish_round()

    def _finish_round(self) -> None:
        self.flat.take_mean(self.vectors.x)
        self.round += 1
        self._eta = None
        self.inbox.close()
        if not self.method.residual:
            self._mixture.clear()
            self._mixture.weights = self._coming_weights
        elif self.method.mixes_first:
            self._mixture.reweigh(self._coming_weights)

    def dump(self, vectors: bool = True) -> dict[str, Tensor]:
        """The node's state between two rounds, for safetensors; `vectors=False` leaves out the vectors."""
        if self._eta is not None or self.inbox.received or self.wanted:
            raise LocalError(f"Node.dump: node {self.me} is within round {self.round + 1}; mix() first")
        found = {
            "round": torch.tensor([self.round]),
            "weights.nodes": torch.tensor(list(self._mixture.weights), dtype=torch.int64),
            "weights.values": torch.tensor(list(self._mixture.weights.values()), dtype=torch.float64),
            START: self._frames.start.clone(),
            NORMS: self.watch.dump(),
        }
        found |= dump_links(self.sender, self.inbox.receivers)
        memory = self.vectors.private_copies() | (self.vectors.named() if vectors else {})
        return found | {name: x.clone() for name, x in memory.items()}

    def load(self, dumped: Mapping[str, Tensor]) -> None:
        """Restore a dump of this node. LocalError or WireError, and no change, for anything else."""
        names = check_names(dumped, self.me, self.inbox.receivers)
        vectors = self.vectors.named() if "vector.x" in names else {}
        copies = self.vectors.private_copies()
        copies |= {f"{COPY}{j}": x for j, x in self.vectors.copies.items() if f"{COPY}{j}" in names}
        check_dump(dumped, vectors | copies, self._frames.start, self.network.n)
        load_links(dumped, self.sender, self.inbox.receivers)
        for name, x in vectors.items():
            x.copy_(dumped[name])
        for name in copies:
            self.vectors.private_copy(int(name.removeprefix(COPY))).copy_(dumped[name])
        self.watch.load(dumped[NORMS])
        self.round, self._frames.start = int(dumped["round"]), dumped[START].clone()
        nodes, weights = dumped["weights.nodes"].tolist(), dumped["weights.values"].tolist()
        self._mixture.weights = dict(zip(nodes, weights, strict=True))
        self._eta = None
        self.inbox.received.clear()
        self.wanted.clear()
        self.flat.whole.copy_(self.vectors.x)


def _check(method: object, network: object, me: int, key: object) -> None:
    if not isinstance(method, GossipMethod):
        raise LocalError(f"Node: method must be a GossipMethod, such as fb.learn.Choco(); got {method!r}")
    if not isinstance(network, Network):
        raise LocalError(f"Node: network must be a Topology, such as fb.topology.ring(6); got {network!r}")
    if not isinstance(key, Key):
        raise LocalError(f"Node: key must be a Key, such as Key(0); got {key!r}")
    network.check()
    if not 0 <= me < network.n:
        raise LocalError(f"Node: this network has the nodes 0..{network.n - 1}; got {me}")
