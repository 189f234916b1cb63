"""Server: takes clients' frames, gives each client its bundle, and moves the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, cast

from torch import Tensor, nn

from fewbits.checks import check_bytes
from fewbits.errors import LocalError, WireError
from fewbits.federated.downlinks import Downlinks
from fewbits.federated.exchange import Exchange
from fewbits.federated.public_model import PublicModel
from fewbits.federated.round_sum import RoundSum
from fewbits.federated.uplinks import Uplinks
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import Publisher, Receiver, SharedInit, StateStore
from fewbits.methods import named
from fewbits.rng import Key
from fewbits.wire.frame import acknowledged


class Server:
    """The server of a federation in a loop that you own: FedAvg (McMahan et al. 2017) over any method.

    In each round take a `sample` of clients, give each its `bundle`, `accept` each frame, and `step`.

    ``theta <- theta - lr * sum_k w_k * update_k``, with ``w_k = n_k / sum of n`` over the accepted clients. Methods
    with `normalise="all"` divide by everybody's examples instead, as LBGM's official code does. With sampling that
    shrinks the step. Accept frames in the order of the clients' numbers, so that sums are the same every time. A frame
    that cannot be used is left out and counted in `rejected`, and the round goes on.

    Args:
        model: any module on the CPU, updated in place; the method prepares factored and private parts.
        method: the clients', as text (`"lbgm+topk"`, `"topk@fraction=0.01"`) or a Method.
        key: draws the sample of clients and the dither of the downlink.
        store: keeps the ends of the clients' links on disk; without it they stay in memory.
        total_weight: everybody's examples; `normalise="all"`, SCAFFOLD and FedDyn need it.
        common: everybody's key; it draws common random supports, factors and pairs of masks.
        init: how the model was made. Clients with the same `build` get a key at first contact, not the model.

    Raises:
        LocalError: the method does not fit the model, or `total_weight` is missing.

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
    ) -> None:
        method = named(method)
        _check(method, key, total_weight)
        if not isinstance(model, nn.Module):
            raise LocalError(f"Server: model must be a torch module; got {type(model).__name__}")
        method.prepare(model, common.fold("factor"))
        self._model, self.method, self.key = model, method, key
        self.flat = FlatModel(model)
        if self.flat.params.device.type != "cpu":
            raise LocalError(f"Server: sums are taken on the CPU; the model is on {self.flat.params.device}")
        self.exchange = Exchange.of(self.flat, method, common)
        self.public = PublicModel.of(self.flat, self.exchange, key.fold("down"), init)
        self.uplinks, self.downlinks = Uplinks(self.exchange, store), Downlinks(self.public.publisher, store)
        self.total_weight = total_weight
        self.round = 0  # rounds finished
        self.void = False  # whether the last round's masks did not cancel
        self.rejected: dict[int, int] = {}  # frames left out, by client
        self.reasons: dict[int, str] = {}  # why the last one was, by client
        self._sum = RoundSum(self.exchange)

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
    def broadcast(self) -> Publisher:
        """The sending end of the downlink."""
        return self.public.publisher

    @property
    def versions(self) -> dict[int, int]:
        """The version of the public model that each client is known to hold."""
        return self.downlinks.versions

    def sample(self, clients: int, per_round: int) -> list[int]:
        """This round's clients, ascending: a uniform subset drawn from the key and the round."""
        return sampled(self.key, self.round, clients, per_round)

    def expect(self, clients: Sequence[int]) -> None:
        """Read the ends of these clients' uplinks at once; their frames come next."""
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

        A frame is left out when it cannot be decoded, or when its values could take the sum out of float32's range.

        Args:
            client: its number.
            frame: what `Client.reply` gave.
            weight: its number of examples, above 0; under dp and masks every client counts 1.

        Returns:
            The receiving end, whose `sections` and `observe` describe the frame.
        """
        try:
            return self.take(client, frame, weight)
        except WireError as error:
            self.rejected[client] = self.rejected.get(client, 0) + 1
            self.reasons[client] = str(error)
            return None

    def take(self, client: int, frame: bytes | memoryview, weight: float) -> Receiver:
        """As `accept`, but nothing is counted: WireError says why the frame is left out."""
        check_bytes("Server.accept", frame)
        _check_weight(weight, client)
        receiver, weight, space = self.uplinks.receiver(client), self.method.weight(weight), self.method.space
        version = self.downlinks.version(acknowledged(frame))
        if space is not None and space.epoch_of(version) != space.epoch_of(self.broadcast.version):
            raise WireError(
                f"the update is from version {version}, of epoch {space.epoch_of(version)}; the model moves in another "
                f"subspace now, of epoch {space.epoch_of(self.broadcast.version)}"
            )
        with self.uplinks.healing(client, receiver, frame, self.round + 1):
            partials = receiver.receive_partial(frame, self.exchange.of_round(version), self._sum.most(weight))
        self._sum.add(partials, weight, receiver.reach, space.which(version, client) if space else 0)
        self._keep(client, receiver, version)
        return receiver

    def read(
        self, client: int, frame: bytes | memoryview, check: Callable[[dict[str, Tensor]], None] | None = None
    ) -> tuple[Receiver, dict[str, Tensor]]:
        """(the receiving end, the update) of one client, for a loop that sums by itself and calls `replace`.

        `check` sees the update before the link moves; when it raises, nothing has changed.
        """
        receiver = self.uplinks.receiver(client)
        version = self.downlinks.version(acknowledged(frame))
        with self.uplinks.healing(client, receiver, frame, self.round + 1):
            update = receiver.receive(frame, self.exchange.of_round(version), check)
        self._keep(client, receiver, version)
        return receiver, update

    def add(self, update: Mapping[str, Tensor], weight: float) -> None:
        """Add an update that came without a link, from a client that sends plain tensors."""
        self.public.check_plain()
        _check_weight(weight)
        self._sum.add_plain(update, weight)

    def _keep(self, client: int, receiver: Receiver, version: int) -> None:
        """Store the client's end and the version that its frame acknowledged."""
        self.downlinks.acknowledge(client, version, self.round + 1)
        self.uplinks.save(client, receiver, self.round + 1)

    def step(self) -> None:
        """Finish the round: move the model by the mean update and publish it. Without any update it stays.

        Under masks it also stays when a client is missing: the round is void.
        """
        self.flat.attach()  # says so when the model was moved off the memory that we write
        sums, self._sum = self._sum, RoundSum(self.exchange)  # an update that fails below is not tried again
        self.void = sums.void
        if self.void:
            sums = RoundSum(self.exchange)
        total = self.total_weight if self.method.normalise == "all" else None
        scale = 1.0 / (total or sums.weight or 1.0)
        self.public.step(sums, scale, sums.weight / self.total_weight if self.total_weight else 1.0)
        self.round += 1

    def replace(self, theta: Mapping[str, Tensor]) -> None:
        """Finish the round, instead of `step`, with another model: `theta`, by the names of `FlatModel.named`."""
        self.public.replace(theta)
        self.round += 1
        self._sum = RoundSum(self.exchange)

    def dump(self) -> dict[str, Sequence[Any]]:
        """Tensors and frames of a checkpoint: model, moments, broadcast; clients' ends are in the store."""
        return self.public.dump()

    def load(self, round: int, dumped: Mapping[str, Sequence[Any]], versions: Mapping[int, int]) -> None:
        """Become the server that was dumped after `round` rounds, when clients held these versions.

        Raises:
            LocalError: it had another model or objective.
        """
        self.public.load(dumped)
        self.round, self.downlinks.versions = round, dict(versions)


def _check(method: Method, key: object, total_weight: float | None) -> None:
    if not isinstance(key, Key):
        raise LocalError(f"Server: key must be a Key, such as Key(0); got {key!r}")
    everybody = method.normalise == "all" or method.objective.server_vectors or method.server_optimizer.needs_objective
    if everybody and total_weight is None:
        raise LocalError(
            f'Server: normalise="all", Scaffold and FedDyn need total_weight, everybody\'s examples; got '
            f"{method.normalise!r}, {method.objective!r} and {total_weight}"
        )


def _check_weight(weight: object, client: int | None = None) -> None:
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 1e-30 <= cast("float", weight) <= 1e30:
        sender = "" if client is None else f" for client {client}"
        raise LocalError(f"Server: weight must be > 0, a number in 1e-30..1e30; got {weight!r}{sender}")


def sampled(key: Key, round: int, clients: int, per_round: int) -> list[int]:
    """The clients of one round, counted from 0, ascending; `key` is the server's."""
    return [int(c) for c in key.fold("round", round, "sample").subset(min(per_round, clients), clients)]
