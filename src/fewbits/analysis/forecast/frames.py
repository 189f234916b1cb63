"""Lengths of frames, encoded from random updates by the senders and receivers of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fewbits.analysis.forecast.downlink import Downlink, Entries, downlink
from fewbits.codecs import Codec
from fewbits.errors import LocalError
from fewbits.factor.coordinates import NAME as COORDINATES
from fewbits.federated.exchange import Exchange
from fewbits.federated.local_round import LocalRound
from fewbits.federated.server import Server
from fewbits.learn.method import Method
from fewbits.links import Sender, SharedInit
from fewbits.methods import dense
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES

Build = Callable[[Key], nn.Module]
ROUNDS = 3  # frames of each client that are made
NUMBERS = 2**25  # most entries of random updates in a round of several clients
LEAST = 2**12  # fewest numbers of the small model
SIZE = 0.01  # standard deviation of their entries; only frames of an absolute threshold depend on it
FAR = 1000.0  # so many times the value decoded last: no residual matters, so every method that recycles recycles it


@dataclass(frozen=True)
class Frames:
    """Bytes of one client's contact. Updates are Gaussian, independent in every round; no buffer is a constant."""

    first: int  # a client's first frame
    later: float  # mean of those after it; of a method that recycles: of those sent in full
    recycled: int | None  # a frame that recycles everything; None: the method never recycles
    fixed: bool  # the innermost codec's contract gives the size of every message that is sent in full
    down: Downlink
    numbers: int  # that a client sends
    server_keeps: int  # for each client, by `Receiver.dump`: look-back states
    client_keeps: int  # by `Sender.dump`, with residuals and private factors
    grown: tuple[int, ...] = ()  # first frames of each epoch in which one more vector of s trains; else none


def measure(
    model: nn.Module, method: Method, clients: int, per_round: int, key: Key, build: Build | None = None
) -> Frames:
    """Play rounds of random updates on a prepared model, which is changed: three, or one when all are alike.

    When the downlink depends on the mean update, `per_round` clients make it. A smaller model is used when their
    updates would have more than `NUMBERS` entries. `build` makes the model from the key, for clients that get a seed.
    """
    init = None if build is None else SharedInit(key, build)
    masks = method.masking
    if masks is not None:  # what masks hide has the length of words, and their sum moves the model as without masks
        method = replace(method, masking=None, up=dense().up)
    server = Server(model, method, key.fold("server"), total_weight=float(clients), common=key, init=init)
    broadcast = server.broadcast
    differs = broadcast.differential
    moves = differs and per_round * server.exchange.update.numel <= NUMBERS
    senders = [server.exchange.sender(key.fold("client", c, "up")) for c in range(per_round if moves else 1)]
    fixed = is_fixed(server.exchange)
    lengths: list[int] = []
    for round in range(ROUNDS if moves or not fixed else 1):
        server.expect(range(len(senders)))
        for client, sender in enumerate(senders):
            update = key.fold("random update", round, client)
            length = _play(server, client, sender, update)
            length = length if masks is None else HEADER_BYTES + masks.payload_bytes(server.exchange.update)
            if client == 0 and (round == 0 or not _recycled(sender)):
                lengths.append(length)
        if moves:
            server.step()
    first, *later = lengths
    state = LocalRound(server.flat, method.objective).new_state()
    recycled = _silent(senders[0])
    return Frames(
        first,
        sum(later) / len(later) if later else first,
        recycled,
        fixed,
        _scaled(server, method, clients, per_round, key)
        if differs and not moves
        else downlink(broadcast, method.space),
        server.exchange.update.numel,
        len(server.receiver(0).dump()),
        len(senders[0].dump()) + 4 * len(state),
        _grown(server, key),
    )


def _grown(server: Server, key: Key) -> tuple[int, ...]:
    """Lengths of the first frames of epochs in which one more vector of s trains; the last one is that of all later."""
    inside = server.method.inside
    if inside is None or inside.mode != "growing" or server.method.masking or server.method.privacy:
        return ()
    versions = [1 + epoch * inside.epoch for epoch in range(inside.k)]
    senders = [server.exchange.sender(key.fold("grown", version)) for version in versions]
    return tuple(
        len(sender.send(_update(server, 0, key.fold("grown", version), version)))
        for version, sender in zip(versions, senders, strict=True)
    )


def _scaled(server: Server, method: Method, clients: int, per_round: int, key: Key) -> Entries:
    """Lengths of differences, scaled up from those of a smaller model of one tensor."""
    numbers = max(LEAST, NUMBERS // per_round // (1 + method.objective.server_vectors))
    few = min(per_round, NUMBERS // numbers // (1 + method.objective.server_vectors))
    small = measure(
        nn.ParameterList([torch.zeros(numbers)]),
        replace(method, factor=None, inside=None, private=()),
        clients,
        few,
        key,
    )
    assert isinstance(small.down, Entries)
    seed = None if server.broadcast.seed_frame is None else len(server.broadcast.seed_frame)
    return replace(
        small.down,
        snapshot=server.broadcast.snapshot_bytes,
        entry=round(small.down.entry * server.exchange.update.numel / small.numbers),
        seed=seed,
    )


def is_fixed(exchange: Exchange) -> bool:
    """Whether the innermost codecs of the uplink give the size of every message that is sent in full."""
    return all(_innermost(g.codec).contract(g.spec).payload_bits is not None for g in exchange.up.groups(exchange.sent))


def _innermost(codec: Codec) -> Codec:
    while codec.inner:
        codec = codec.inner[0]
    return codec


def _play(server: Server, client: int, sender: Sender, key: Key) -> int:
    """Send one frame and return its length."""
    version = server.broadcast.version
    x = _update(server, client, key, version)
    frame = sender.send(x, ack=version % 2**16, common=server.exchange.of_round(version))
    if server.accept(client, frame, 1.0) is None:
        raise LocalError(f"forecast: the server refused a frame of {len(frame)} bytes of a random update")
    sender.commit()
    return len(frame)


def _update(server: Server, client: int, key: Key, version: int) -> dict[str, Tensor]:
    """A random update, zero in vectors of s that rest."""
    generator, inside = key.generator(), server.method.inside
    x = {name: SIZE * torch.randn(leaf.shape, generator=generator) for name, leaf in server.exchange.update}
    if inside is not None:
        s, trained = x[COORDINATES], inside.trained(version, client)
        s[: trained.start * inside.dim] = 0
        s[trained.stop * inside.dim :] = 0
    return x


def _recycled(sender: Sender) -> bool:
    return sender.observe().get("recycled", 0.0) > 0


def _silent(sender: Sender) -> int | None:
    """Length of a frame that recycles everything; None when the method does not recycle."""
    if "recycled" not in sender.observe():
        return None
    value: dict[str, Tensor] = sender.value
    length = len(sender.send({name: FAR * x for name, x in value.items()}))
    silent = sender.observe()["recycled"] == 1.0
    sender.rollback()
    return length if silent else None
