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
    """A mod for `ClientApp(mods=[...])`, first in the list; the app's own functions still see plain arrays.

    All arguments but `keep` must be those of the server. A client that differs is refused, and the text says in what.

    Args:
        method: a name from `fewbits methods`, text such as "topk@fraction=0.01", or a Method.
        downlink: dense, fp16, delta8, delta4, sparse or changes; None: the method's own.
        settings: options of the method as text.
        seed: of all randomness that both sides share.
        keep: shell patterns on the names of arrays that never leave the client. They are stored, with the ends of its
            links, in the folder that the node's or the run's config names as `fewbits-state` (else in $FLWR_HOME or
            ~/.flwr).

    Raises:
        LocalError: there is no such method, or it changes more than bytes.

    Example:
        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp(mods=[mod("lbgm+topk", downlink="delta8")])
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
    """A strategy with links between it and its clients: real frames both ways, counted in `books.ledger`.

    Args:
        strategy: the strategy that you have; it still sees plain arrays.
        method: a name from `fewbits methods`, text such as "topk@fraction=0.01", or a Method.
        downlink: dense, fp16, delta8, delta4, sparse or changes; None: the method's own.
        settings: options of the method as text.
        seed: of all randomness that both sides share.
        state: folder for checkpoints, ledger and the ends of links; a run that was killed continues there. None: in
            memory only.
        quorum: fewest usable replies of a round; with fewer, the model stays as it is.
        quarantine: which clients are left out, and for how long; None: after three unusable replies in a row.

    Raises:
        LocalError: there is no such method, or it changes more than bytes.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> strategy = compress(FedAvg(), "lbgm+topk", downlink="delta8")
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

    Args:
        method: as in `compress`; methods that move in subspaces work, too.
        clients: number of partitions.
        per_round: partitions sampled in each round; None: all.
        downlink: as in `compress`.
        settings: as in `compress`.
        seed: as in `compress`.
        state: as in `compress`.
        quorum: as in `compress`.
        quarantine: as in `compress`.
        evaluate: share of clients that evaluate the model after each round.

    Raises:
        LocalError: there is no such method, or Flower cannot carry it out.

    Example:
        >>> strategy = federated("intrinsic", clients=100, per_round=10)
    """
    chosen = named(method, downlink, settings)
    return engine.Federated(chosen, clients, per_round, Key(seed), state, quorum, quarantine, evaluate)


def named(method: str | Method, downlink: str | None, settings: Mapping[str, str] | None) -> Method:
    """The method of that text, with another downlink if one is named."""
    found = methods.named(method, settings)
    return found if downlink is None else replace(found, down=by_name(downlink))
