"""Forecast: the bytes of a whole run, contact by contact, from the lengths of a few frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from fewbits.analysis.forecast.downlink import Downlink
from fewbits.analysis.forecast.frames import measure
from fewbits.errors import LocalError
from fewbits.federated.round_clients import sampled
from fewbits.learn.method import Method
from fewbits.privacy.secure_sum.messages import client_bytes
from fewbits.rng import Key

MOST_CONTACTS = 5_000_000  # summed one by one
ANY, RANDOM, BOUND = "any update", "random update", "bound"


@dataclass(frozen=True)
class Link:
    """A client's line, megabits (10^6) per second."""

    up_mbps: float = 10.0
    down_mbps: float = 50.0

    def __post_init__(self) -> None:
        if not (self.up_mbps > 0 and self.down_mbps > 0):
            raise LocalError(f"Link: both rates must be > 0 Mbit/s; got {self.up_mbps} and {self.down_mbps}")

    def seconds(self, up: float, down: float) -> float:
        """Seconds to receive and then send so many bytes, without latency, TLS and training."""
        return 8e-6 * (up / self.up_mbps + down / self.down_mbps)


@dataclass(frozen=True)
class Forecast:
    """One line of a plan. Bytes are lengths of frames and of bundles of frames."""

    method: str
    case: str  # an assumption or an option, such as "all recycled" or "mode=static"; may be empty
    basis: str  # any update: exact for all data; random update: measured on Gaussian ones; bound: no run is beyond
    numbers: int  # that a client sends, before any codec
    up_first: int  # a client's first frame
    up_later: float  # mean of its later ones
    up_total: int  # of the whole run, all clients
    down_total: int
    contacts: int  # clients' turns in the run
    server_keeps: int  # bytes per client
    client_keeps: int  # bytes
    times_fewer: float | None = None  # bytes of the dense run over those of this one
    down_first: int = 0  # the part of down_total that brings clients the model at first contact

    @property
    def up(self) -> float:
        """Mean bytes of a contact, clients to server."""
        return self.up_total / max(1, self.contacts)

    @property
    def down(self) -> float:
        """Mean bytes of a contact, server to client, with all missed frames."""
        return self.down_total / max(1, self.contacts)

    @property
    def total(self) -> int:
        """Bytes of the run in both directions."""
        return self.up_total + self.down_total

    def against(self, dense: Forecast) -> Forecast:
        """The same forecast with `times_fewer`, compared with the dense run."""
        return replace(self, times_fewer=dense.total / self.total)


def forecast(
    make: Callable[[], nn.Module],
    method: Method,
    clients: int,
    per_round: int | None,
    rounds: int,
    key: Key = Key(0),
    case: str = "",
    seeded: bool = False,
) -> list[Forecast]:
    """Estimate the bytes of a run from frames of random updates, contact by contact.

    Args:
        make: gives a new model.
        method: what the run would use.
        clients: how many there are.
        per_round: clients sampled in each round; None: all.
        rounds: rounds of communication.
        key: of the run; the same clients are sampled.
        case: what the lines are called.
        seeded: the initial model comes from the key, and is not sent at first contact.

    Returns:
        One line; two for a method that recycles: no frame recycled, and every frame but a client's first.

    Raises:
        LocalError: a run would refuse the method or the sizes, too; or there are more than 5,000,000 contacts.

    >>> from fewbits.methods import dense
    >>> (line,) = forecast(lambda: nn.Linear(9, 1), dense(), clients=4, per_round=2, rounds=3)
    >>> line.basis, line.contacts, line.up_total == 6 * (16 + 4 * 10)
    ('any update', 6, True)
    """
    per_round = per_round or clients
    if not (0 < per_round <= clients and rounds > 0):
        raise LocalError(
            f"forecast: need rounds >= 1 and 1 <= per_round <= clients; got {rounds}, {per_round} of {clients}"
        )
    if rounds * per_round > MOST_CONTACTS:
        raise LocalError(
            f"forecast: at most {MOST_CONTACTS:,} contacts; got {rounds} rounds of {per_round}. "
            "Plan fewer rounds: bytes grow in proportion"
        )
    method = method.for_round_size(per_round)

    def build(key: Key) -> nn.Module:
        model = make()
        method.prepare(model, key.fold("factor"))
        return model

    frames = measure(build(key), method, clients, per_round, key, build if seeded else None)
    rounds_of = (sampled(key.fold("server"), round, clients, per_round, method.poisson) for round in range(rounds))
    walk = _walk(frames.down, rounds_of, method.masking is not None)
    returning, exact = walk.contacts - walk.newcomers, frames.fixed and frames.down.exact

    def line(words: str, basis: str, later: float) -> Forecast:
        sent = walk.newcomers * frames.first + round(returning * later)
        if frames.grown and later != frames.recycled:
            epochs = [(version - 1) // method.inside.epoch for version in walk.turns] if method.inside else []
            lengths = [frames.grown[min(epoch, len(frames.grown) - 1)] for epoch in epochs]
            sent = sum(n * length for n, length in zip(walk.turns.values(), lengths, strict=True))
            later = (sent - walk.newcomers * frames.first) / max(1, returning)
        return Forecast(
            method.name,
            ", ".join(filter(None, [case, words])),
            basis,
            frames.numbers,
            frames.first,
            later,
            sent + walk.secure_up,
            walk.down,
            walk.contacts,
            frames.server_keeps,
            frames.client_keeps,
            down_first=walk.first_down,
        )

    if frames.recycled is None:
        return [line("", ANY if exact else RANDOM, frames.later)]
    basis = BOUND if exact else f"{BOUND}, {RANDOM}"
    return [line("all in full", basis, frames.later), line("all recycled", basis, frames.recycled)]


class _Walk(NamedTuple):
    """Sums over the contacts of a run."""

    contacts: int
    newcomers: int  # first contacts
    down: int  # bytes, with those of masks
    first_down: int  # bytes of first contacts
    secure_up: int  # bytes of masks beside the frames
    turns: dict[int, int]  # contacts by version


def _walk(down: Downlink, rounds: Iterable[Sequence[int]], masked: bool) -> _Walk:
    """Walk through the rounds; each is given by its clients. Nobody drops out."""
    last: dict[int, int] = {}
    contacts = total = first = secure_up = 0
    turns: dict[int, int] = {}
    for now, clients in enumerate(rounds, 1):
        known: dict[int | None, int] = {}
        up_each, down_each = client_bytes(len(clients)) if masked else (0, 0)
        secure_up, total = secure_up + len(clients) * up_each, total + len(clients) * down_each
        for client in () if masked and len(clients) < 2 else clients:
            before = last.get(client)
            if before not in known:
                known[before] = down.bundle(before, now)
            total += known[before]
            first += known[before] if before is None else 0
            last[client] = now
            contacts += 1
            turns[now] = turns.get(now, 0) + 1
    return _Walk(contacts, len(last), total, first, secure_up, turns)
