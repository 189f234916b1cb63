"""Node: one participant of a training without a server; takes bytes, gives bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fewbits.errors import DesyncError, LocalError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import key_frame
from fewbits.learn.gossip.auto import tuned
from fewbits.learn.gossip.method import GossipMethod
from fewbits.learn.gossip.vectors import Vectors, need
from fewbits.links import Receiver, Sender
from fewbits.rng import Key
from fewbits.topology import Network, Topology
from fewbits.wire import Frame

Train = Callable[[FlatModel], float]  # trains in place; returns eta, the length of its way: learning rate * steps


class Node:
    """Node `me` of a network. An engine plays one iteration of every node like this, with frames as its only traffic:

        if node.awake:
            frame = node.step(train)         # local steps, then ONE frame, the same for all `node.neighbours`
        for j in node.expected:              # the neighbours that are awake in this round, ascending
            node.receive(j, frame_of_j)      # asleep or not: a sleeping node hears, too
        node.mix()                           # consensus and proximal step; the round is over

    `round` counts finished rounds; who is awake in the coming one is drawn from the network's key, so every node knows
    it of all. A sleeping node has no frame (`step` raises LocalError), but hears. Frames are the same bytes, and models
    the same bits, on any engine that delivers a round's frames after the own step, in ascending order of their senders.

    Trouble: `receive` raises WireError for bytes that are none of this link's (nothing changed: ask for them again) and
    DesyncError for a frame that is not the next one. A frame that came twice is dropped by that. After one that was
    lost (`ask` says so when nothing came at all), `wanted` names the neighbours whose `key_frame()` is needed (for
    two-vector memory, all of them); it must be made after their `step` of this round, and goes to `receive` instead of
    their frame. `mix` raises DesyncError, naming who is missing, and changes nothing, until all are there.

    All nodes must be given the same model (bit for bit: an engine should compare a digest), method, network and key.
    Several nodes may share one model, one after the other, when each has `vectors` of its own.
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
        """`key` is the run's, everybody's. `memory`: "two" or "copies", see Vectors; None: what the network needs."""
        _check(method, network, me, key)
        self.flat = model if isinstance(model, FlatModel) else FlatModel(model)
        self.spec = shared_values.spec(self.flat)
        self.method = tuned(method, self.spec, network, key.fold("gamma"))
        self.network, self.me, self.neighbours = network, me, network.neighbours(me)
        need(method, network, memory)
        self.vectors = vectors or Vectors.fresh(self.flat, method, network, me, memory)
        codec, common = shared_values.with_buffers(method.lift, self.spec), key.fold("common")
        self.sender = Sender(codec, self.spec, key.fold("node", me), common)
        self.receivers = {j: Receiver(codec, self.spec, common) for j in self.neighbours}
        self.round = 0  # finished
        self.wanted: set[int] = set()  # neighbours whose key frame is needed
        self._heard: set[int] = set()  # neighbours whose frame of this round is in
        self._eta: float | None = None  # of this round's local step; None: not taken yet
        first = len(self.flat.private[0])
        self._shared = self.vectors.x[first : first + len(self.flat.shared)]
        self._start()

    def _start(self) -> None:
        own = self.vectors
        own.x.copy_(self.flat.whole)
        self._row = dict(self._now.row(self.me))  # the weights that the mixture is made with
        if self.method.residual and getattr(self.method, "start", "") == "common":
            own.public.copy_(self._shared)
            for copy in () if own.lent else own.copies.values():
                copy.copy_(own.public)
            for weight in self._row.values():
                own.mixture.add_(own.public, alpha=weight)

    @property
    def _now(self) -> Topology:
        """The coming round's."""
        return self.network.at(self.round + 1)

    @property
    def awake(self) -> bool:
        """Whether this node takes part in the coming round."""
        return self.me not in self._now.inactive

    @property
    def expected(self) -> tuple[int, ...]:
        """Neighbours that send a frame in the coming round, ascending."""
        inactive = self._now.inactive
        return tuple(j for j in self.neighbours if j not in inactive)

    def step(self, train: Train) -> bytes:
        """Train the model, and encode what the neighbours are to hear of it: one frame for all of them.

        LocalError when this node sleeps, has stepped already, or names the tensor that is not finite.
        """
        if not self.awake or self._eta is not None:
            found = "it is asleep" if not self.awake else "it has taken its step; mix() first"
            raise LocalError(f"node {self.me}, round {self.round + 1}: {found}")
        own, method = self.vectors, self.method
        half, eta = self._train(train)
        if method.mixes_first:
            half = method.combine(half, self._consensus(), eta, self.spec)
        message = half - own.public if method.residual else half
        frame = self.sender.send(shared_values.cut(message, self.flat))
        heard = shared_values.vector(self.sender.value)  # what the neighbours decode
        self.sender.commit()
        own.public.copy_(own.public + heard if method.residual else heard)
        self._shared.copy_(half)
        self._eta = eta
        return frame

    def _train(self, train: Train) -> tuple[Tensor, float]:
        """(x_half, eta): after local steps, and with momentum.  # (S,)"""
        own = self.vectors
        self.flat.attach()
        self.flat.whole.copy_(own.x)
        before = self.flat.shared.cpu().clone() if self.method.momentum else None
        eta = float(train(self.flat))
        if not 0 < eta < float("inf"):
            raise LocalError(f"Node.step: train must return eta = learning rate * steps, above 0; got {eta}")
        own.x.copy_(self.flat.whole)
        half = self._shared.cpu()
        if before is not None:
            own.velocity.mul_(self.method.momentum).add_(before - half)
            half = before - own.velocity
        return half, eta

    def receive(self, j: int, frame: bytes | memoryview) -> None:
        """Neighbour j's frame of this round, or its key frame."""
        if j not in self.receivers:
            raise LocalError(f"node {self.me} has no link with node {j}; its neighbours are {list(self.neighbours)}")
        header = Frame.parse(frame).header
        if header.snapshot:
            self._adopt(j, frame)
            return
        receiver = self.receivers[j]
        if j in self.wanted:
            raise DesyncError(f"node {self.me} waits for a key frame of node {j}; got frame {header.sequence}")
        try:
            increment = shared_values.vector(receiver.receive(frame))
        except DesyncError:
            if header.sequence >= receiver.expects:  # else it came twice
                self._lost(j)
            raise
        self._add(j, increment)
        if j in self.vectors.copies and not self.vectors.lent:
            self.vectors.copies[j].add_(increment)
        self._heard.add(j)

    def _add(self, j: int, vector: Tensor) -> None:
        if weight := self._row.get(j, 0.0):
            self.vectors.mixture.add_(vector, alpha=weight)

    def ask(self, j: int) -> None:
        """Give up on neighbour j's frame of this round: `wanted` says whose key frames are needed instead."""
        if j not in self.receivers:
            raise LocalError(f"node {self.me} has no link with node {j}; its neighbours are {list(self.neighbours)}")
        self._lost(j)

    def _lost(self, j: int) -> None:
        """What j sent is not all here: its public vector must come whole; in two-vector form, everybody's."""
        if self.vectors.copies or not self.method.residual:
            self.wanted.add(j)
        else:
            self.wanted.update(self.neighbours)
            self._heard.clear()
            self.vectors.mixture.zero_()

    def key_frame(self) -> bytes:
        """The public vector as the last step left it, in float32; a neighbour can take the next frame after it."""
        return key_frame.write(self.sender, self.vectors.public)

    def _adopt(self, j: int, frame: bytes | memoryview) -> None:
        """Take j's public vector as it came."""
        if j not in self.wanted:
            raise DesyncError(f"node {self.me} wants no key frame of node {j}")
        own = self.vectors
        public = key_frame.read(self.receivers[j], frame, len(own.public))
        if j in own.copies:
            own.copies[j].copy_(public)
            self._row = {}  # the mixture has to be summed anew
        else:
            self._add(j, public)
        self.wanted.discard(j)
        self._heard.add(j)

    def mix(self) -> None:
        """Finish the round."""
        missing = sorted(self.wanted | (set(self.expected) - self._heard))
        if missing or (self.awake and self._eta is None):
            found = f"waits for {'key ' if self.wanted else ''}frames of nodes {missing}" if missing else "has no step"
            raise DesyncError(f"node {self.me}, round {self.round + 1}, {found}")
        own, method = self.vectors, self.method
        if method.residual:
            self._reweigh()
        if self._eta is not None and not method.mixes_first:
            self._shared.copy_(method.combine(self._shared.cpu(), self._consensus(), self._eta, self.spec))
        self.flat.whole.copy_(own.x)
        self.round += 1
        self._eta = None
        self._heard.clear()
        if not method.residual:
            own.mixture.zero_()
            self._row = dict(self._now.row(self.me))
        elif method.mixes_first:
            self._reweigh()

    def _reweigh(self) -> None:
        """Make the mixture that of the coming round's weights, summing anew where they are others."""
        row, own = dict(self._now.row(self.me)), self.vectors
        if row == self._row:
            return
        assert own.copies or not self.neighbours
        own.mixture.zero_()
        for j, weight in row.items():
            own.mixture.add_(own.copies[j], alpha=weight)
        self._row = row

    def _consensus(self) -> Tensor:
        """Sum over neighbours j of w_ij (public_j - public_i); what is on the diagonal of W has no part in it."""
        return torch.sub(self.vectors.mixture, self.vectors.public, alpha=sum(self._row.values()))

    def dump(self, vectors: bool = True) -> dict[str, Tensor]:
        """This node between two rounds, for safetensors; without `vectors`, when somebody else keeps those."""
        if self._eta is not None or self._heard or self.wanted:
            raise LocalError(f"Node.dump: node {self.me} is within round {self.round + 1}; mix() first")
        found = {
            "round": torch.tensor([self.round]),
            "row.nodes": torch.tensor(list(self._row), dtype=torch.int64),
            "row.weights": torch.tensor(list(self._row.values()), dtype=torch.float64),
            "sender": _bytes(self.sender.dump()),
        }
        found |= {f"receiver.{j}": _bytes(receiver.dump()) for j, receiver in self.receivers.items()}
        return found | ({name: x.clone() for name, x in self._named().items()} if vectors else {})

    def load(self, dumped: Mapping[str, Tensor]) -> None:
        """Become the node that was dumped; LocalError or WireError when it was another one's dump."""
        own = self._named() if any(name.startswith("vector.") for name in dumped) else {}
        ends = {"round", "row.nodes", "row.weights", "sender", *(f"receiver.{j}" for j in self.receivers)}
        if set(dumped) != ends | set(own) or any(dumped[name].shape != x.shape for name, x in own.items()):
            raise LocalError(f"Node.load: not the dump of node {self.me} of this network, model and method")
        self.sender.load(dumped["sender"].numpy().tobytes())
        for j, receiver in self.receivers.items():
            receiver.load(dumped[f"receiver.{j}"].numpy().tobytes())
        for name, x in own.items():
            x.copy_(dumped[name])
        self.round = int(dumped["round"])
        nodes, weights = dumped["row.nodes"].tolist(), dumped["row.weights"].tolist()
        self._row = dict(zip(nodes, weights, strict=True))
        self._eta = None
        self._heard.clear()
        self.wanted.clear()
        self.flat.whole.copy_(self.vectors.x)

    def _named(self) -> dict[str, Tensor]:
        own = self.vectors
        found = {f"vector.{name}": getattr(own, name) for name in ("x", "public", "mixture", "velocity")}
        return found | {f"vector.copy.{j}": x for j, x in own.copies.items() if not own.lent}


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _check(method: object, network: object, me: int, key: object) -> None:
    if not isinstance(method, GossipMethod):
        raise LocalError(f"Node: method must be a GossipMethod, such as fb.Choco(); got {method!r}")
    if not isinstance(network, Network):
        raise LocalError(f"Node: network must be a Topology, such as fb.topology.ring(6); got {network!r}")
    if not isinstance(key, Key):
        raise LocalError(f"Node: key must be a Key, such as Key(0); got {key!r}")
    network.check()
    if not 0 <= me < network.n:
        raise LocalError(f"Node: this network has the nodes 0..{network.n - 1}; got {me}")
