"""Server: takes clients' frames, gives each client its bundle, and moves the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from fewbits.checks import check_bytes
from fewbits.errors import WireError
from fewbits.federated.arrived import Arrived
from fewbits.federated.downlinks import Downlinks
from fewbits.federated.exchange import Exchange
from fewbits.federated.norm_watch import NormWatch
from fewbits.federated.peer_weight import Most, PeerWeight
from fewbits.federated.public_model import PublicModel
from fewbits.federated.round_clients import RoundClients, sampled
from fewbits.federated.round_sum import RoundSum, names
from fewbits.federated.server_arguments import check_arguments, dump_to_load
from fewbits.federated.uplinks import Uplinks
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import Publisher, Receiver, SharedInit, StateStore
from fewbits.methods import named
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.rng import Key
from fewbits.wire.frame import acknowledged


class Server:
    """The server of a federation in a loop that you own: FedAvg (McMahan et al. 2017) over any method.

    In each round take a `sample` of clients, give each its `bundle`, `accept` each frame, and `step`.

    ``theta <- theta - lr * sum_k w_k * update_k``, with ``w_k = n_k / sum of n`` over the accepted clients. Methods
    with `normalise="all"` divide by everybody's examples instead, as LBGM's official code does. With sampling that
    shrinks the step. Accept frames in the order of the clients' numbers, so that sums are the same every time. A frame
    that cannot be used is left out and counted in `rejected`, and the round goes on. So is an update that is much
    longer than the others (`Method.norm_bound`). A method may replace the mean by a robust rule (`Method.aggregator`).

    Args:
        model: any module on the CPU, updated in place; the method prepares factored and private parts.
        method: the clients', as text (`"lbgm+topk"`, `"topk@fraction=0.01"`) or a Method.
        key: draws the sample of clients, the dither of the downlink, and noise of dp in place of lost clients. Under
            dp it must be secret.
        store: keeps the ends of the clients' links on disk; without it they stay in memory.
        total_weight: everybody's examples; `normalise="all"`, SCAFFOLD and FedDyn need it.
        common: everybody's key; it draws common random supports and factors.
        init: how the model was made. Clients with the same `build` get a key at first contact, not the model.
        max_weight: the largest weight that a client may claim: its examples by client number, or one number for all.
            None: `total_weight`, or else 1e8.

    Raises:
        LocalError: the method does not fit the model, `total_weight` is missing, or a weight is out of range.

    Example:
        >>> import torch, fewbits as fb
        >>> server = fb.Server(torch.nn.Linear(2, 1), "dense", fb.Key(0))
        >>> len(server.bundle(0))  # the whole model, in one frame
        30
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method,
        key: Key,
        store: StateStore | None = None,
        total_weight: float | None = None,
        common: Key = Key(0),
        init: SharedInit | None = None,
        max_weight: Most = None,
    ) -> None:
        method = named(method)
        check_arguments(model, method, (key, common), (store, init), total_weight)
        method.prepare(model, common.fold("factor"))
        self._model, self.method, self.key = model, method, key
        self.flat = FlatModel(model)
        self.exchange = Exchange.of(self.flat, method, common)
        self.public = PublicModel.of(self.flat, self.exchange, key.fold("down"), init)
        self.uplinks, self.downlinks = Uplinks(self.exchange, store), Downlinks(self.public.publisher, store)
        counted = method.weight(2) == 2  # else all clients weigh 1
        self.total_weight, self._weights = total_weight, PeerWeight(max_weight, total_weight, counted)
        self.round = 0  # rounds finished
        self.void = ""  # why the last round's updates moved nothing; "": it was no void round
        self.rejected: dict[int, int] = {}  # frames left out, by client
        self.reasons: dict[int, str] = {}  # why the last one was, by client
        self.left_out: dict[int, str] = {}  # in the last step, after they were accepted: why, by client
        self.norms = NormWatch(method.watched, self.exchange) if method.watched else None
        self._sum = RoundSum(self.exchange, self.norms)
        self._clients = RoundClients(method)

    @property
    def model(self) -> nn.Module:
        """The module that holds the public model."""
        return self._model

    @property
    def store(self) -> StateStore | None:
        """Where the ends of the clients' links are."""
        return self.uplinks.store

    @store.setter
    def store(self, store: StateStore | None) -> None:
        self.uplinks.store = self.downlinks.store = store

    @property
    def secure(self) -> ServerEnd:
        """Under masks: the server's end of the secure sum of the round whose clients were said."""
        return self._clients.secure

    @property
    def broadcast(self) -> Publisher:
        """The sending end of the downlink."""
        return self.public.publisher

    @property
    def notes(self) -> list[str]:
        """Sentences about buffers of which it is not known what a mean of them means."""
        return list(self.public.remarks.values())

    @property
    def versions(self) -> dict[int, int]:
        """The version of the public model that each client is known to hold."""
        return self.downlinks.versions

    def sample(self, clients: int, per_round: int) -> list[int]:
        """This round's clients, ascending, drawn from the key and the round.

        A uniform subset; under dp with share=central every client by a coin of its own, `per_round` expected.
        """
        found = sampled(self.key, self.round, clients, per_round, self.method.poisson)
        self._clients.ask(found, self.broadcast.version)
        return found

    def expect(self, clients: Sequence[int]) -> None:
        """These are the round's clients: read the ends of their uplinks at once; their frames come next."""
        self._clients.ask(clients, self.broadcast.version)
        self.uplinks.expect(clients)

    def bundle(self, client: int) -> bytes:
        """What this client must receive to hold the current model, or one near it."""
        return self.downlinks.bundle(client, self.uplinks.receiver(client).ack)

    def reset_downlink(self, client: int) -> None:
        """Forget what the client holds; its next bundle is one for first contact.

        Call it when `Client.receive` raised DesyncError, and `Client.reset_downlink` on the other side.
        """
        self.downlinks.versions.pop(client, None)

    def receiver(self, client: int) -> Receiver:
        """The receiving end of a client's link, valid until the next call."""
        return self.uplinks.receiver(client)

    def accept(self, client: int, frame: bytes | memoryview, weight: float) -> Receiver | None:
        """Add one client's update; None when the frame was left out.

        A frame is left out when it cannot be decoded, its values could take the sum out of float32's range, or its
        weight is none. `step` leaves out updates that are too long for the others, and names them in `left_out`.

        Args:
            client: its number. A frame does not name its sender, so the caller must know it.
            frame: what `Client.reply` gave.
            weight: its number of examples, above 0 and at most `max_weight`; under dp and masks every client counts 1.

        Returns:
            The receiving end, whose `sections` and `observe` describe the frame.
        """
        try:
            return self.take(client, frame, weight)
        except WireError as error:
            self._reject(client, str(error))
            return None

    def _reject(self, client: int, reason: str) -> None:
        self.rejected[client], self.reasons[client] = self.rejected.get(client, 0) + 1, reason

    def take(self, client: int, frame: bytes | memoryview, weight: float) -> Receiver:
        """As `accept`, but nothing is counted: WireError says why the frame is left out."""
        check_bytes("Server.accept", frame)
        weight = self.method.weight(self._weights.check(weight, client))
        receiver, space = self.uplinks.receiver(client), self.method.space
        version = self.downlinks.version(acknowledged(frame))
        if space is not None:
            space.check_epoch(version, self.broadcast.version)
        self._clients.check(client, version)
        receive = partial(receiver.receive_partial, frame, self.exchange.of_round(version), self._sum.most(weight))
        partials = self.uplinks.received(client, receiver, frame, self.round + 1, receive)
        self._sum.add(client, partials, weight, receiver.reach, space.which(version, client) if space else 0)
        self._keep(client, receiver, version)
        self._clients.arrive(client)
        return receiver

    def read(
        self, client: int, frame: bytes | memoryview, check: Callable[[dict[str, Tensor]], None] | None = None
    ) -> tuple[Receiver, dict[str, Tensor]]:
        """(the receiving end, the update) of one client, for a loop that sums by itself and calls `replace`.

        `check` sees the update before the link moves; when it raises, nothing has changed.
        """
        receiver = self.uplinks.receiver(client)
        version = self.downlinks.version(acknowledged(frame))
        receive = partial(receiver.receive, frame, self.exchange.of_round(version), check)
        update = self.uplinks.received(client, receiver, frame, self.round + 1, receive)
        self._keep(client, receiver, version)
        return receiver, update

    def add(self, update: Mapping[str, Tensor], weight: float, client: int | None = None) -> None:
        """Add an update that came without a link, from a client that sends plain tensors.

        Args:
            update: start - end of all that travels, by wire name or by the name in the module.
            weight: as for `accept`.
            client: its number, under which `step` counts it if it is too long; None: -1.

        Raises: LocalError when the method needs links; WireError, and nothing changes, when the update cannot be used.
        """
        self.public.check_plain()
        weight = self.method.weight(self._weights.check(weight, client))
        named = shared_values.checked(update, self.exchange.update)
        found = Arrived.plain_of(client, named, self.exchange.up.groups(self.exchange.update), weight)
        self._sum.check_reach(found)
        self._sum.enter(found)

    def _keep(self, client: int, receiver: Receiver, version: int) -> None:
        """Store the client's end and the version that its frame acknowledged."""
        self.downlinks.acknowledge(client, version, self.round + 1)
        self.uplinks.save(client, receiver, self.round + 1)

    def step(self) -> None:
        """Finish the round: move the model by the mean update and publish it. Without any update it stays.

        It stays in a void round, too: the optimizer would leave float32's range, or masks stay in the sum; see `void`.
        """
        self.flat.attach()  # takes replaced tensors over, or says which it cannot take
        sums = self._close()  # an update that fails below is not tried again
        self.void = "" if self.method.masking is None else sums.unmask(self.secure)
        if self.void:
            sums = RoundSum(self.exchange)
        weight = sums.protect(self.method.privacy, self._clients, self.key.fold("dp", self.round))
        scale = 1.0 / ((self.total_weight if self.method.normalise == "all" else None) or weight or 1.0)
        self.void += self.public.move(sums, scale, weight / self.total_weight if self.total_weight else 1.0)
        self.round += 1
        self._clients = RoundClients(self.method)

    def _close(self) -> RoundSum:
        """The round's sum, without updates that are too long; the next round begins."""
        sums, self._sum = self._sum, RoundSum(self.exchange, self.norms)
        sums.close()
        self.left_out = names(sums.left_out)
        for client, reason in sums.left_out:
            self._reject(-1 if client is None else client, reason)
        return sums

    def replace(self, theta: Mapping[str, Tensor]) -> None:
        """Finish the round, instead of `step`, with another model: `theta`, by the names of `FlatModel.named`."""
        self.flat.attach()
        self.public.replace(theta)
        self.round += 1
        if self.norms is not None:
            self.norms.clear()
        self._sum = RoundSum(self.exchange, self.norms)

    def dump(self) -> dict[str, Sequence[Any]]:
        """Tensors and frames of a checkpoint: model, moments, broadcast, norms; clients' ends are in the store."""
        return self.public.dump() | {"norms": self.norms.dump() if self.norms else []}

    def load(self, round: int, dumped: Mapping[str, Sequence[Any]], versions: Mapping[int, int]) -> None:
        """Become the server that was dumped after `round` rounds, when clients held these versions.

        Raises:
            LocalError, WireError: it is another server's or round's, no dump, or damaged; nothing has changed then.
        """
        self.public.load(dump_to_load(round, dumped, versions, self.dump()), round)
        if self.norms is not None:
            self.norms.load(dumped.get("norms", ()))
        self.round, self.downlinks.versions = round, dict(versions)
        self._clients = RoundClients(self.method)
