"""fewbits on Flower, by the names of methods: `mod` for a ClientApp, `compress` around a strategy, or `federated`.

app = ClientApp(mods=[fewbits.flower.mod("lbgm+topk")])
strategy = fewbits.flower.compress(FedAvg(), method="lbgm+topk", downlink="delta8")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fewbits import methods
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.downlink import downlink as by_name
from fewbits.rng import Key

try:
    from fewbits.engines import flower as engine
    from fewbits.engines.flower import Quarantine
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flwr":
        raise
    raise LocalError("fewbits.flower needs Flower: pip install 'fewbits[flower]'") from None

__all__ = ["Quarantine", "compress", "federated", "mod"]


def mod(
    method: str | Method,
    downlink: str | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
) -> engine.Mod:
    """For `ClientApp(mods=[...])`, first in the list: the app's own functions go on seeing plain arrays.

    All but `keep` is as in `compress`, and must be what the server was given; a client that differs is told in what.
    `keep`: shell patterns on the names of arrays that never leave the client. They are kept, with the ends of its
    links, in the folder that the node's or the run's config names as `fewbits-state` (else in $FLWR_HOME or ~/.flwr).
    """
    return engine.mod(named(method, downlink, settings), Key(seed), keep)


def compress(
    strategy: engine.Strategy,
    method: str | Method,
    downlink: str | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    state: Path | str | None = None,
    quorum: int = 1,
    quarantine: Quarantine | None = None,
) -> engine.Compressed:
    """The strategy with links between it and its clients: real frames both ways, counted in `books.ledger`.

    `method`: a name from `fewbits methods` (with `settings`, its options as text) or a Method. `downlink`: dense, fp16,
    delta8 or delta4; None: the method's own. `state`: a folder for checkpoints, ledger and the ends of links; a run
    that was killed goes on there. `quorum`: with fewer usable replies the model stays as it is.
    """
    return engine.Compressed(strategy, named(method, downlink, settings), Key(seed), state, quorum, quarantine)


def federated(
    method: str | Method,
    clients: int,
    per_round: int | None = None,
    downlink: str | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    state: Path | str | None = None,
    quorum: int = 1,
    quarantine: Quarantine | None = None,
    evaluate: float = 1.0,
) -> engine.Federated:
    """fewbits' own server as a strategy: for one seed the same bytes and the same model as `fewbits.federate`.

    `clients`: how many partitions there are; `per_round` of them are sampled by their partition ids. `evaluate`: the
    share of clients that judge the model after each round. The rest is as in `compress`.
    """
    chosen = named(method, downlink, settings)
    return engine.Federated(chosen, clients, per_round, Key(seed), state, quorum, quarantine, evaluate)


def named(method: str | Method, downlink: str | None, settings: Mapping[str, str] | None) -> Method:
    """The method of that text, with another downlink if one is named."""
    found = methods.named(method, settings)
    return found if downlink is None else replace(found, down=by_name(downlink))
