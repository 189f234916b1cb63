"""Compressed: any Flower strategy, with links in place of arrays between it and its clients."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fewbits.engines.flower import carried
from fewbits.engines.flower.client_channel import ClientChannel
from fewbits.engines.flower.decoder import Decoder
from fewbits.engines.flower.delegate import STEPS, Delegate
from fewbits.engines.flower.farewell import farewell
from fewbits.engines.flower.fits import check_arrays, check_method, check_private, lossless
from fewbits.engines.flower.layout import Layout
from fewbits.engines.flower.metric_functions import EVALUATE, TRAIN
from fewbits.engines.flower.mod import check, identity
from fewbits.engines.flower.order import check_inner, check_outermost
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.replies import ClientReply, Demands, MaxWeight, with_values
from fewbits.engines.flower.round_log import Evaluate, RoundLog
from fewbits.engines.flower.run_store import KINDS, RunStore, end_bytes
from fewbits.engines.flower.strategy_state import StrategyState
from fewbits.errors import LocalError
from fewbits.federated import Server
from fewbits.federated.compile_kernels import compile_kernels
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.rng import Key

log = logging.getLogger("flwr")
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


class NotFiniteError(LocalError):
    """A strategy's arrays are not finite, so that nobody could train on."""


class Compressed(Delegate):
    """Put links around a strategy, which still chooses, weighs and aggregates plain arrays, decoded from frames.

    The strategy sees theta - update of each client, with the server's theta. Their average is FedAvg on what the links
    carry, even when a lossy downlink showed the clients another theta. A lossless method carries the clients' arrays
    themselves, so the strategy sees exactly these. Attributes of the strategy are reached through this one.

    Args:
        inner: the strategy.
        method: the clients' method.
        key: the clients' key.
        state: a folder, in which a killed run continues; None: in memory only.
        quorum: with fewer usable replies the model stays as it is.
        quarantine: how long a client rests after replies that could not be used.
        max_weight: what a client may weigh, or a table of that by client; None: 100 times the median of a round.
        exact: shell patterns on names of arrays that no lossy codec may touch, besides those of statistics.

    Raises:
        LocalError: the method changes local training, or needs a server of its own.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> from fewbits import methods
        >>> Compressed(FedAvg(fraction_train=0.5), methods.named("topk")).fraction_train
        0.5
    """

    attributes = Delegate.attributes | {
        *("method", "key", "quorum", "max_weight", "exact", "plain", "state", "quarantine", "timeout", "run_store"),
        *("channel", "layout", "server", "rounds", "decoder", "_starts", "_carried", "_latest", "_state"),
    }
    sums_frames: ClassVar[bool] = False  # whether this server takes frames itself, and may move in a subspace
    plain = "allow"  # whether nodes that do not speak the method take part with plain arrays, or "refuse"

    def __init__(
        self,
        inner: Strategy,
        method: Method,
        key: Key = Key(0),
        state: Path | str | None = None,
        quorum: int = 1,
        quarantine: Quarantine | None = None,
        max_weight: MaxWeight = None,
        exact: Sequence[str] = (),
    ) -> None:
        self.inner, self._steps = inner, {}
        check(method)
        check_inner(inner)
        if not self.sums_frames:
            check_method(method)
            check_private(method)
        self.method, self.key, self.quorum, self.max_weight = method, key, quorum, max_weight
        self.exact = (exact,) if isinstance(exact, str) else tuple(exact)
        self.state = Path(state) if state is not None else None
        self.quarantine = quarantine or Quarantine()
        self.timeout = 3600.0  # seconds that a round, or a hello, may take
        self.run_store: RunStore | None = None  # from the first round on
        self._starts = 0  # runs begun

    def summary(self) -> None:
        """Log the inner strategy's summary, and the links."""
        log.info("\t├──> fewbits: %s, uplink %r, downlink %r", self.method.name, self.method.up, self.method.down)
        self.inside("summary")

    # The rounds, as Flower calls them

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, with bundles for the clients that have the mod."""
        check_outermost(self)
        if self.run_store is not None and server_round < self.rounds.last:
            self.run_store = None  # another run begins
        self._load(grid, arrays)
        if self.rounds.over(server_round):
            return []
        self.rounds.begin(server_round)
        self.server.round = server_round - 1  # the loop counts
        messages = list(self.inside("configure_train", server_round, arrays, config, grid))
        return self.channel.addressed("train", server_round, messages, grid, self.timeout, self._chosen())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same for evaluation. A client that trains next would need this bundle anyway."""
        self._load(grid, arrays)
        if self.rounds.over(server_round):
            return []
        messages = list(self.inside("configure_evaluate", server_round, arrays, config, grid))
        return self.channel.addressed("evaluate", server_round, messages, grid, self.timeout)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Decode frames in the order of the clients' numbers; `inner` aggregates, and sees failures as errors."""
        if self.run_store is None:  # no round was configured: nothing went through links
            return self.inside("aggregate_train", server_round, replies)
        if self.rounds.over(server_round):
            return self._latest, None
        usable, failures = self.channel.usable("train", server_round, replies)
        if short := self.channel.too_few(server_round, usable, self.quorum):
            failures += [reply.failure(short) for reply in usable]
            usable = []
        plain = sum(reply.client is None for reply in usable)
        log.info("fewbits: round %d: %d compressed and %d plain clients", server_round, len(usable) - plain, plain)
        arrays, metrics = self._aggregate(server_round, usable, failures)
        self.server.round = server_round
        self.rounds.enter(KINDS[0], metrics)
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate metrics; a client that evaluated a version holds it."""
        if self.run_store is None:
            return self.inside("aggregate_evaluate", server_round, replies)
        if self.rounds.over(server_round):
            return None
        usable, failures = self.channel.usable("evaluate", server_round, replies)
        if self.channel.demands.weightless(usable):
            usable, failures = [], failures + [reply.failure("all replies weigh 0") for reply in usable]
        messages, most = self.channel.demands.alike(usable, self.channel.say_once)
        with self.channel.metrics(EVALUATE, server_round, most):
            found = self.inside("aggregate_evaluate", server_round, self.channel.demands.given(messages, failures))
        self.rounds.enter(KINDS[1], found)
        return found

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
        **more: Any,
    ) -> Result:
        """The inner strategy's own `start`, with links. With `state`, a run continues after its last round.

        A second `start` trains anew from its own `initial_arrays`, as a run of its own. Replies after the deadline of
        a round, `timeout` seconds, count as lost; the client learns this from its next bundle. `more` is for an
        overridden `start`.
        """
        self.timeout = timeout
        if self._starts:
            self.run_store = None
        self._load(grid, initial_arrays)
        rounds, self.rounds.evaluate = self.rounds, evaluate_fn
        evaluated = None if evaluate_fn is None else rounds.evaluated
        if rounds.finished:
            log.info("fewbits: rounds 1 to %d were played before; nobody is asked in them", rounds.finished)
        given = {"train_config": train_config, "evaluate_config": evaluate_config, "evaluate_fn": evaluated}
        found = self.start_inside(grid, initial_arrays, num_rounds=num_rounds, timeout=timeout, **given, **more)
        rounds.close()
        rounds.complete(found, self.arrays)
        farewell(self.channel, grid, timeout, resumable=self.state is not None)
        return found

    # The parts of a round

    @property
    def arrays(self) -> ArrayRecord:
        """The server's model."""
        return self.layout.record(self.server.flat.named(), self._carried)

    def _chosen(self) -> set[int] | None:
        """The clients that train in this round; None: all that `inner` writes to."""
        return None

    def _load(self, grid: Grid, arrays: ArrayRecord) -> None:
        """Build the server from the first arrays, or take arrays that somebody else has changed since."""
        if self.run_store is None:
            self._starts += 1
            self.run_store = self._build(grid, arrays)
        elif arrays is not self._latest and not self.rounds.over(1 + self.rounds.last):
            self._take(arrays, "compress")
        self.channel.model = arrays

    def _take(self, arrays: ArrayRecord, owner: str) -> None:
        """Let the model be other arrays; nothing moves when they are the same, or when they do not fit."""
        theirs, rest = self.layout.tensors(arrays, owner), self.layout.carried(arrays, owner)
        ours, part = self.server.flat.named(), carried.part(rest, owner)
        if bad := self.layout.not_finite(theirs, rest, self._carried):
            raise NotFiniteError(f"{owner}: {bad} is not finite")
        if not all(torch.equal(ours[name], x) for name, x in theirs.items()):
            self.server.replace(theirs)
        self._carried, self.channel.part = rest, part

    def _build(self, grid: Grid, arrays: ArrayRecord) -> RunStore:
        exactly = not self.sums_frames and lossless(self.method)
        self.layout, method = Layout.of(arrays, self.exact, exactly, not self.sums_frames), self.method
        check_arrays(self.method, self.layout)
        self._carried = self.layout.carried(arrays, "compress")
        self.server = _server(self.layout, arrays, method, self.key)
        compile_kernels(self.server.exchange)  # before the first round
        common = identity(method, self.key) | {"model": str(self.layout.entries), "strategy": type(self.inner).__name__}
        again = f"-{self._starts}" if self._starts > 1 else ""  # each run has its folder, here and at the clients
        folder = self.state / f"start{again}" if self.state and again else self.state
        run_store = RunStore(folder, self.server, f"{grid.run.run_id}{again}", common)
        self._state = StrategyState(self.inner, frozenset(STEPS)) if folder else None
        self._restore(run_store, arrays)
        values = "none" if self.sums_frames else "all" if exactly else "exact"
        said, demands = identity(method, self.key), Demands.of(self.inner, self.max_weight)
        self.channel = ClientChannel(
            self.server, self.layout, run_store.run, said, run_store.ledger, self.quarantine, demands, values
        )
        self.channel.plain = self.plain
        self.decoder, self.channel.part = Decoder(self.channel), carried.part(self._carried, "compress")
        self.rounds = RoundLog(run_store, self._close)
        return run_store

    def _restore(self, run_store: RunStore, arrays: ArrayRecord) -> None:
        """Continue the run in the folder, if there is one; else begin, with nobody at rest."""
        self._latest = arrays
        self.quarantine.begin()
        if self._state is None:
            return
        self._state.check()
        found = run_store.restore(self._state, self.quarantine)
        if found is not None:
            self._latest, self._carried = found, self.layout.carried(found, "compress")
        size = end_bytes(self.server)
        log.info("fewbits: the server keeps %s bytes per client, in two or three versions: %s", f"{size:,}", self.state)

    def _close(self, round: int, metrics: dict[str, MetricRecord | None]) -> None:
        assert self.run_store is not None
        state, latest = self._state, self._latest
        self.run_store.close_round(round, metrics, lambda: state.dump(latest) if state else b"", self.quarantine)

    def _aggregate(self, round: int, replies: list[ClientReply], failures: list[Message]) -> Aggregate:
        """The inner strategy's aggregate of the clients' arrays."""
        good, left_out = self.decoder.decoded(round, replies, self._carried)
        failures += left_out
        if self.channel.demands.weightless(good):
            good, failures = [], failures + [reply.failure("all replies weigh 0") for reply in good]
        with_values(good)
        messages, most = self.channel.demands.alike(good, self.channel.say_once)
        given = self.channel.demands.given(messages, failures)
        if self.channel.demands.divides and not given:
            return None, None
        with self.channel.metrics(TRAIN, round, most):
            arrays, metrics = self.inside("aggregate_train", round, given)
        if arrays is None:
            return None, metrics
        try:
            self._take(arrays, "aggregate_train")
        except NotFiniteError as error:
            self.channel.say(f"round {round}: {error}; the model stays")
            return None, metrics
        self._latest = arrays = self.arrays if self.server.flat.units else arrays
        return arrays, metrics


def _server(layout: Layout, arrays: ArrayRecord, method: Method, key: Key) -> Server:
    """A server of these arrays, which are the factors already where the method has some."""
    model = layout.module()
    FlatModel(model).load(layout.tensors(arrays, "compress"))
    return Server(model, replace(method, factor=None, private=()), key.fold("server"), common=key)
