"""Server: takes the clients' frames, gives each client its bundle, and owns the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fewbits.codecs import Chain, Codec, Flat, Transform, TreeTotal, as_lift
from fewbits.codecs.flat_view import pieces
from fewbits.coders.base import Coder
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.learn import exchange
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import SENT, IntrinsicSpace
from fewbits.learn.method import NORMALISE
from fewbits.learn.objective import Objective, Vectors
from fewbits.learn.objectives import Plain
from fewbits.learn.optimizers import Moments, ServerOptimizer, ServerSGD
from fewbits.links import Broadcast, Downlink, EpochBroadcast, Publisher, Receiver, SharedInit, StateStore, ends
from fewbits.links.bundle import wrap
from fewbits.links.epochs import NOW, WHOLE
from fewbits.links.finite import all_finite
from fewbits.links.personal_updates import HeldState
from fewbits.privacy.pairwise_masking import MaskedTotal, PairwiseMasking
from fewbits.rng import Key
from fewbits.wire import Frame
from fewbits.wire.frame import acknowledged

PART = "server.up"
HELD = "server.held"  # the recipe of what a client holds
LARGEST = torch.finfo(torch.float32).max


class Server:
    """The server of a federation (FedAvg, McMahan et al. 2017, over any codecs).

    A round: `bundle` for each sampled client, `accept` their frames (in the order of their numbers, so that
    sums are the same every time), then `step`. A frame that cannot be decoded is counted in `rejected`
    and left out; the round goes on.
    The model is updated in place: theta -= lr * sum_k w_k * update_k, with w_k = n_k / sum of n over the accepted
    (`normalise="all"`: over `total_weight`, as LBGM's official code does, which shrinks the step when sampling).
    """

    def __init__(
        self,
        model: nn.Module,
        up: Codec | Transform | Coder,
        down: Codec | Transform | Coder | Downlink,
        key: Key,
        optimizer: ServerOptimizer | None = None,
        store: StateStore | None = None,
        normalise: str = "sampled",
        total_weight: float | None = None,
        common: Key = Key(0),
        objective: Objective | None = None,
        space: IntrinsicSpace | None = None,
        masking: PairwiseMasking | None = None,
        seed: tuple[Key, Callable[[Key], nn.Module]] | None = None,
    ) -> None:
        """`store` keeps the clients' states on disk; without it they stay in memory.

        `total_weight` is everybody's examples; normalise="all", SCAFFOLD and FedDyn need it. Without an `optimizer`,
        the objective's own half or ServerSGD. In a `space`, the optimiser steps on s, and s travels down as it is.
        With `masking`, only the sum of all its clients' words is read; `up` is masking's own.
        `seed`: the key that `model` was made from, and what made it: clients that were given the same `build` get the
        key at first contact, not the model.
        """
        self.objective: Objective = objective or Plain()
        self.optimizer: ServerOptimizer = optimizer or self.objective.server() or ServerSGD()
        self.objective.check_server(self.optimizer)
        everybody = normalise == "all" or bool(self.objective.extra) or self.optimizer.needs_objective
        if normalise not in NORMALISE or (everybody and total_weight is None):
            raise LocalError(
                f'Server: normalise is "sampled" or "all", and "all", Scaffold and FedDyn need total_weight; '
                f"got {normalise!r}, {self.objective!r} and {total_weight}"
            )
        if not isinstance(key, Key):
            raise LocalError(f"Server: key must be a Key, such as Key(0); got {key!r}")
        self.model = model
        self.flat = FlatModel(model)
        if self.flat.params.device.type != "cpu":
            raise LocalError(f"Server: sums are taken on the CPU; the model is on {self.flat.params.device}")
        self.space = space
        self.spec = (
            exchange.spec(self.flat, self.objective.extra) if space is None else space.spec(self.flat, self.objective)
        )
        self.extra: Vectors = (torch.zeros_like(self.flat.shared_params),) * self.objective.extra
        self.key, self.common = key, common
        self.masking, self.void = masking, False  # whether the last round's masks did not cancel
        self.up_spec = self.spec if masking is None else masking.spec(self.spec)  # of what a client sends
        self.up = exchange.with_buffers(as_lift(up, "Server"), self.up_spec)
        first = None if seed is None else SharedInit(seed[0], exchange.initial(seed[1], self.objective.extra, space))
        self.broadcast: Publisher
        if space is None:
            link = exchange.downlink(down, self.spec)
            self.broadcast = Broadcast(link, self.spec, key.fold("down"), seed=first)
            self.broadcast.publish(exchange.values(self.flat, self.extra))
        else:
            whole = exchange.spec(self.flat)
            self.broadcast = EpochBroadcast(space, whole, key.fold("down"), seed=first)
            self.broadcast.publish({WHOLE: self.flat.shared})
        self._check_carrier()
        self.moments: Moments = self.optimizer.init(space.numel if space else len(self.flat.shared_params))
        self.normalise, self.total_weight = normalise, total_weight
        self.round = 0  # rounds finished
        self.versions: dict[int, int] = {}  # of the public model, by client
        self.rejected: dict[int, int] = {}  # frames left out, by client
        self.reasons: dict[int, str] = {}  # why the last one was, by client
        self.store = store
        self._receivers: dict[int, Receiver] = {}
        self._shared = Receiver(self.up, self.up_spec, common)  # lent to each client in turn when states are on disk
        self._fresh = self._shared.dump()
        self._before: bytes | None = None  # what it was lent as
        self._held: dict[int, HeldState] = {}  # what clients hold that have left the public model, if not in the store
        self._offered: dict[int, HeldState] = {}  # what they will, once the last bundle has arrived
        self._clear()

    def _check_carrier(self) -> None:
        """An optimiser that steps on carriers needs them, of one vector with all that travels, as they were added."""
        linear_prefix, codec = self.optimizer.carrier, self.up.inner[0]
        if linear_prefix is None:
            return
        if (
            self.space
            or not isinstance(self.up, Flat)
            or not isinstance(codec, Chain)
            or codec.linear_prefix != (linear_prefix,)
        ):
            raise LocalError(
                f"Server: {self.optimizer!r} steps on sums of what {linear_prefix!r} leaves, so the uplink must be "
                f"flat(chain({linear_prefix!r}, ...)), not in a subspace, and nothing but parameters may travel (use GroupNorm "
                f"instead of BatchNorm); got {self.up!r}"
            )

    def _clear(self) -> None:
        """Begin the sums of a round: one for each subspace that clients send from."""
        count = self.space.subspaces if self.space else 1
        self._totals = [
            TreeTotal(self.up, self.spec) if self.masking is None else MaskedTotal(self.masking, self.spec)
            for _ in range(count)
        ]
        self._weight = self._reach = 0.0  # no entry of a sum is larger than the latter
        self._plain: Tensor | None = None  # the sum of updates that came without a link

    def sample(self, clients: int, per_round: int) -> list[int]:
        """This round's clients, ascending: a uniform subset drawn from the key and the round."""
        return sampled(self.key, self.round, clients, per_round)

    def expect(self, clients: Sequence[int]) -> None:
        """Frames of these clients come next: read the ends of their links at once."""
        if self.store is not None:
            self.store.fetch(clients, PART)

    def bundle(self, client: int) -> bytes:
        """What this client must receive to hold the current model, or one near it, by what it is known to have."""
        ack = self.receiver(client).ack
        if not self.alone:
            return self.broadcast.bundle(self.versions.get(client), ack)
        found = self.broadcast.catch_up(self.held(client))
        self._offered[client] = found.after
        return wrap(found.frames, ack)

    @property
    def alone(self) -> bool:
        """Whether clients may hold models of their own, near the public one."""
        return self.broadcast.personal is not None

    def held(self, client: int) -> HeldState:
        """What this client is known to hold: a public version, and frames that were made for it alone since."""
        version = self.versions.get(client, 0)
        data = None if self.store is None else self.store.get(client, HELD)
        recipe = HeldState.read(data) if data else self._held.get(client, HeldState())
        return recipe if version and recipe.version == version else HeldState(version)

    def _settle(self, client: int, version: int) -> None:
        """The client holds this version: what the last bundle offered, or what it held before it.

        An acknowledgement of neither is of a bundle that another has replaced, and changes nothing: whoever took that
        bundle still has what it began from (see Follower).
        """
        if not self.alone:
            self.versions[client] = version
            return
        offered = self._offered.get(client)
        if offered is None or offered.version != version:
            return
        recipe = self.broadcast.compact(self._offered.pop(client))
        self.versions[client] = version
        if self.store is not None:
            self.store.put(client, HELD, self.round + 1, bytes(recipe if recipe.frames else HeldState()))
        else:
            self._held[client] = recipe

    def receiver(self, client: int) -> Receiver:
        """The receiving end of a client's link, valid until the next call."""
        if self.store is None:
            if client not in self._receivers:
                self._receivers[client] = Receiver(self.up, self.up_spec, self.common)
            return self._receivers[client]
        self._before = ends.restore(self.store, client, PART)
        self._shared.load(self._before or self._fresh)
        return self._shared

    def accept(
        self, client: int, frame: bytes | memoryview, weight: float, common: Key | None = None
    ) -> Receiver | None:
        """Add one client's update with `weight` (its number of examples); None when the frame was left out.

        Left out are frames that cannot be decoded, and finite values so large that the sum could leave float32.

        Returns the receiving end, whose `sections` and `observe` tell of the frame.
        """
        try:
            return self.take(client, frame, weight, common)
        except WireError as error:
            self.rejected[client] = self.rejected.get(client, 0) + 1
            self.reasons[client] = str(error)
            return None

    def take(self, client: int, frame: bytes | memoryview, weight: float, common: Key | None = None) -> Receiver:
        """As `accept`, but nothing is counted: WireError says why the frame is left out."""
        if not weight > 0:
            raise LocalError(f"Server.accept: weight must be > 0; got {weight} for client {client}")
        receiver = self.receiver(client)
        version = self._version(acknowledged(frame))
        with self._desynchronised(client, receiver, frame):
            partials = receiver.receive_partial(frame, common)
        if self._reach + weight * receiver.reach > LARGEST:
            raise WireError(f"values up to {receiver.reach:.3g} with weight {weight:.3g} could leave float32's range")
        self._totals[self.space.which(self.round + 1, client) if self.space else 0].add(partials, weight)
        self._weight += weight
        self._reach += weight * receiver.reach
        self._keep(client, receiver, version)
        return receiver

    def read(
        self, client: int, frame: bytes | memoryview, common: Key | None = None
    ) -> tuple[Receiver, dict[str, Tensor]]:
        """(the receiving end, the update) of one client, for those who sum by themselves and `replace` the model."""
        receiver = self.receiver(client)
        version = self._version(acknowledged(frame))
        with self._desynchronised(client, receiver, frame):
            update = receiver.receive(frame, common)
        self._keep(client, receiver, version)
        return receiver, update

    def add(self, update: Mapping[str, Tensor], weight: float) -> None:
        """Add an update that came without a link, from a client that sends it as it is."""
        if self.space is not None:
            raise LocalError("Server.add: in a run in subspaces every client sends A^T of its update, through a link")
        if self.optimizer.carrier is not None:
            raise LocalError(
                f"Server.add: {self.optimizer} steps on what a codec sends; a plain update has gone through none"
            )
        vector = exchange.vector(update).mul_(weight)
        self._plain = vector if self._plain is None else self._plain + vector
        self._weight += weight

    def _keep(self, client: int, receiver: Receiver, version: int) -> None:
        """A frame counts: store the client's end and the version it acknowledged."""
        self._settle(client, version)
        if self.store is not None:
            ends.save(self.store, client, PART, self.round + 1, receiver.dump(), self._before)

    @contextmanager
    def _desynchronised(self, client: int, receiver: Receiver, frame: bytes | memoryview) -> Iterator[None]:
        """Have the next acknowledgement ask for a key frame when the number fits and the history does not."""
        try:
            yield
        except DesyncError:
            if Frame.parse(frame).header.sequence == receiver.expects:
                receiver.skip()
                if self.store is not None:
                    ends.save(self.store, client, PART, self.round + 1, receiver.dump(), self._before)
            raise

    def _version(self, ack: int) -> int:
        """The version that 16 bits stand for: the latest that fits; DesyncError when only one from the future does."""
        version = self.broadcast.version
        found = version - (version - ack) % 2**16
        if found < 0:
            raise DesyncError(
                f"the client holds version {ack} of the model, but version {version} is the newest that there is"
            )
        return found

    def step(self) -> None:
        """Finish the round: move the model by the mean update and publish it. Without any update it stays.

        Under masks it stays, too, unless all clients arrived: the round is void.
        """
        self.flat.attach()  # says so when the model was moved off the memory that we write
        self.void = any(isinstance(total, MaskedTotal) and not total.whole for total in self._totals)
        if self.void:
            self._clear()
        scale = 1.0 / ((self.total_weight if self.normalise == "all" else None) or self._weight or 1.0)
        share = self._weight / self.total_weight if self.total_weight else 1.0
        if self.space is not None:
            self._move(torch.cat([total.value()[SENT] * scale for total in self._totals]), share)
        else:
            if self._weight:
                self._apply(self._totals[0], scale, share)
            self.broadcast.publish(exchange.values(self.flat, self.extra))
        self.round += 1
        self._clear()

    def replace(self, theta: Mapping[str, Tensor]) -> None:
        """Instead of `step`: the model becomes `theta`, by the names of `FlatModel.named`, and is published."""
        if self.space is not None:
            raise LocalError("Server.replace: a run in subspaces moves the model itself; use step")
        self.flat.load(theta)
        self.broadcast.publish(exchange.values(self.flat, self.extra))
        self.round += 1
        self._clear()

    def _apply(self, total: TreeTotal | MaskedTotal, scale: float, share: float) -> None:
        mean: dict[str, Tensor] = {}
        if self.optimizer.carrier is not None:
            assert isinstance(total, TreeTotal)
            update = total.carried[0] * scale
        else:
            mean = {name: x * scale for name, x in total.value().items()}
            if self._plain is not None:
                plain = pieces(self._plain * scale, mean)
                mean = {name: x + plain[name] for name, x in mean.items()}
            parameters = [x.reshape(-1) for name, x in mean.items() if not name.startswith(exchange.AS_THEY_ARE)]
            update = torch.cat([torch.zeros(0), *parameters])
        theta, moments = self.optimizer.step(self.flat.shared_params, update, self.moments, share=share)
        changed = tuple(x for name, x in mean.items() if name.startswith(exchange.CONTROL))
        extra = self.objective.absorb(self.extra, changed, share)
        self._check_finite(theta, *extra)
        self.flat.shared_params.copy_(theta)
        self.moments, self.extra = moments, extra
        current = exchange.values(self.flat)
        for name, x in mean.items():
            if name.startswith(exchange.BUFFER):
                current[name].sub_(x)

    def _move(self, update: Tensor, share: float) -> None:
        """The same step in s; the moments are those of one epoch's subspace. Expanded once."""
        assert self.space is not None
        broadcast = self.broadcast
        s = broadcast.current[NOW]
        if self._weight:
            s, self.moments = self.optimizer.step(s, update, self.moments, share=share)
            self._check_finite(s)
        if self.space.epoch_of(broadcast.version + 1) != self.space.epoch_of(broadcast.version):
            self.moments = self.optimizer.init(self.space.numel)
        broadcast.publish({NOW: s})
        self.flat.shared.copy_(broadcast.value[WHOLE])

    def _check_finite(self, *after: Tensor) -> None:
        if not all(map(all_finite, after)):
            raise LocalError(f"Server.step: {self.optimizer} leaves float32's range; the model stays as it was")

    def dump(self) -> dict[str, Any]:
        """Tensors and frames of a checkpoint: model, moments, broadcast; clients' ends are in the store."""
        return {
            "theta": self.flat.vector().clone(),
            "extra": [x.clone() for x in self.extra],
            "moments": [m.clone() for m in self.moments],
            "broadcast": self.broadcast.dump(),
        }

    def load(
        self,
        round: int,
        theta: Tensor,
        moments: Sequence[Tensor],
        broadcast: Sequence[bytes],
        extra: Sequence[Tensor] = (),
    ) -> None:
        """Become the server that was dumped after `round` rounds; LocalError when it had another model or objective."""
        self.flat.load_vector(theta)
        if len(extra) != len(self.extra):
            raise LocalError(f"Server.load: expected {len(self.extra)} vectors of an objective; got {len(extra)}")
        self.broadcast.load(broadcast)
        self.moments, self.extra, self.round = tuple(moments), tuple(extra), round


def sampled(key: Key, round: int, clients: int, per_round: int) -> list[int]:
    """The clients of one round, counted from 0, ascending; `key` is the server's."""
    return [int(c) for c in key.fold("round", round, "sample").subset(min(per_round, clients), clients)]
