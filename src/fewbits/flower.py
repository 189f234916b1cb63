"""fewbits on Flower, by the names of methods: `mod` for a ClientApp, `compress` around a strategy, or `federated`.

app = ClientApp(mods=[fewbits.flower.mod("lbgm+topk")])
strategy = fewbits.flower.compress(FedAvg(), method="lbgm+topk", downlink="delta8")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fewbits import methods
from fewbits.checks import check_number, check_one_of, check_whole
from fewbits.engines.common import flower_version
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.downlink import downlink as by_name
from fewbits.rng import Key

flower_version.check(flower_version.installed())
try:
    from fewbits.engines import flower as engine
    from fewbits.engines.flower import Quarantine
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flwr":
        raise
    raise LocalError("fewbits.flower needs Flower: pip install 'fewbits[flower]'") from None

PLAIN = ("allow", "refuse")
__all__ = ["Quarantine", "compress", "federated", "mod"]


def mod(
    method: str | Method,
    downlink: str | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
) -> engine.Mod:
    """A mod for `ClientApp(mods=[...])`, first in the list; the app's own functions still see plain arrays.

    The client keeps its state in the folder that the node's or the run's config names as `fewbits-state`; else in
    $FLWR_HOME/fewbits or ~/.flwr/fewbits.

    Args:
        method: the server's, as text (`"lbgm+topk"`) or a Method.
        downlink: the server's.
        settings: the server's.
        seed: the server's. A client with other settings is left out; its error names them.
        keep: shell patterns on the names of arrays that never leave the client.

    Raises:
        LocalError: there is no such method, or it changes local training.

    Example:
        >>> client = mod("topk@fraction=0.01", downlink="delta8")
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
    max_weight: float | Mapping[int, float] | None = None,
    exact: Sequence[str] = (),
    plain: Literal["allow", "refuse"] = "allow",
) -> engine.Compressed:
    """A strategy with links between it and its clients: real frames both ways, counted in `run_store.ledger`.

    Args:
        strategy: FedAvg or any other; it still chooses clients, weighs and aggregates.
        method: as text, such as `"lbgm+topk"` or `"topk@fraction=0.01"`, or a Method.
        downlink: dense, fp16, delta8, delta4 or sparse; None: the method's own.
        settings: the method's options as text, by name.
        seed: draws all random numbers; same seed, same bytes.
        state: a folder for checkpoints, ledger and the ends of links, in which a killed run continues.
        quorum: with fewer usable replies the model stays as it is.
        quarantine: how long a client rests after replies that could not be used.
        max_weight: the most that a client may weigh, in examples, for all or by partition id; None: 100 medians of the
            round.
        exact: shell patterns on names of arrays that no lossy codec may touch, besides running statistics and
            variances.
        plain: whether nodes that do not speak fewbits take part with plain arrays ("allow") or are left out ("refuse").

    Raises:
        LocalError: there is no such method, or it has parts beside its bytes: it changes local training, steps at the
            server, or leaves layers with the clients.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> compress(FedAvg(), "lbgm+topk", downlink="delta8").method.name
        'lbgm+topk'
    """
    check_one_of("compress: plain", plain, PLAIN)
    method = named(method, downlink, settings)
    found = engine.Compressed(strategy, method, Key(seed), state, quorum, quarantine, max_weight, exact)
    found.plain = plain
    return found


def federated(
    method: str | Method,
    clients: int | None = None,
    per_round: int | None = None,
    seed: int = 0,
    state: Path | str | None = None,
    quorum: int = 1,
    quarantine: Quarantine | None = None,
    evaluate: float = 1.0,
    max_weight: float | Mapping[int, float] | None = None,
    plain: Literal["allow", "refuse"] = "allow",
    wait: float = 60.0,
) -> engine.Federated:
    """The server of fewbits as a strategy: for one seed the same bytes and the same model as `fewbits.federate`.

    Args:
        method: as in `compress`; options and downlink are part of the text: "topk@fraction=0.01,down=delta4".
        clients: how many partitions there are; None: as many as there are nodes, once no new one comes.
        per_round: how many of them are sampled in each round, by their partition ids; None: all.
        seed: as in `compress`.
        state: as in `compress`.
        quorum: as in `compress`.
        quarantine: as in `compress`.
        evaluate: the share of clients that evaluate the model after each round.
        max_weight: as in `compress`. Give the examples that you have registered, as `{partition id: examples}`: what
            a node itself says of them is no bound.
        plain: as in `compress`.
        wait: seconds for `clients` nodes to come before the first round. It then begins with those that are here.

    Raises:
        LocalError: there is no such method, or it changes local training.

    Example:
        >>> federated("intrinsic", clients=100, per_round=10).clients
        100
    """
    check_one_of("federated: plain", plain, PLAIN)
    check_number("federated: wait", wait, "[0, inf)")
    if clients is not None:
        check_whole("federated: clients", clients, 1)
    method = methods.named(method)
    found = engine.Federated(method, clients, per_round, Key(seed), state, quorum, quarantine, evaluate)
    found.max_weight, found.plain, found.wait = max_weight, plain, wait
    return found


def named(method: str | Method, downlink: str | None, settings: Mapping[str, str] | None) -> Method:
    """The method of that text, with another downlink if one is named."""
    found = methods.named(method, settings)
    return found if downlink is None else replace(found, down=by_name(downlink))
