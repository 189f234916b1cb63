"""Compressed: any Flower strategy, with links in place of arrays between it and its clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fewbits.engines.flower.client_channel import ClientChannel, ClientReply
from fewbits.engines.flower.clipping import clipped
from fewbits.engines.flower.layout import Layout
from fewbits.engines.flower.mod import check, identity
from fewbits.engines.flower.order import check_outermost, option
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.run_store import RunStore, end_bytes
from fewbits.errors import LocalError, WireError
from fewbits.federated import Server
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import Entry, Receiver
from fewbits.links.ledger import stages
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES

log = logging.getLogger("flwr")
Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class Compressed(Strategy):
    """Put links around a strategy, which still chooses, weighs and aggregates plain arrays, decoded from frames.

    The strategy sees theta - update of each client, with the server's theta. Their average is FedAvg on what the links
    carry, even when a lossy downlink showed the clients another theta.

    Args:
        inner: the strategy.
        method: the clients' method.
        key: the clients' key.
        state: a folder, in which a killed run continues; None: in memory only.
        quorum: with fewer usable replies the model stays as it is.
        quarantine: how long a client rests after replies that could not be used.

    Raises:
        LocalError: the method changes local training, or needs a server of its own.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> from fewbits import methods
        >>> Compressed(FedAvg(), methods.named("topk")).quorum
        1
    """

    takes_subspaces: ClassVar[bool] = False  # whether the server moves the model in a subspace
    plain = "allow"  # whether nodes that do not speak the method take part with plain arrays, or "refuse"

    def __init__(
        self,
        inner: Strategy,
        method: Method,
        key: Key = Key(0),
        state: Path | str | None = None,
        quorum: int = 1,
        quarantine: Quarantine | None = None,
    ) -> None:
        check(method)
        if method.space is not None and not self.takes_subspaces:
            raise LocalError(f"compress: {method.name} moves the model itself; use fewbits.flower.federated")
        self.inner, self.method, self.key, self.quorum = inner, method, key, quorum
        self.state = Path(state) if state is not None else None
        self.quarantine = quarantine or Quarantine()
        self.timeout = 3600.0  # seconds that a round, or a hello, may take
        self.run_store: RunStore | None = None  # from the first round on

    def summary(self) -> None:
        """Log the inner strategy's summary, and the links."""
        log.info("\t├──> fewbits: %s, uplink %r, downlink %r", self.method.name, self.method.up, self.method.down)
        self.inner.summary()

    # The rounds, as Flower calls them

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, with bundles for the clients that have the mod."""
        check_outermost(self)
        self._load(grid, arrays)
        self.server.round = server_round - 1  # the loop counts
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        return self.channel.addressed("train", server_round, messages, grid, self.timeout, self._chosen())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same for evaluation. A client that trains next would need this bundle anyway."""
        self._load(grid, arrays)
        messages = list(self.inner.configure_evaluate(server_round, arrays, config, grid))
        return self.channel.addressed("evaluate", server_round, messages, grid, self.timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode frames in the order of the clients' numbers; `inner` aggregates."""
        usable = self.channel.usable("train", server_round, replies)
        if len(usable) < self.quorum:
            found = f"{len(usable)} usable replies, quorum {self.quorum}"
            self.channel.say(f"round {server_round}: {found}; the model stays")
            usable = []
        plain = sum(reply.client is None for reply in usable)
        log.info("fewbits: round %d: %d compressed and %d plain clients", server_round, len(usable) - plain, plain)
        arrays, metrics = self._aggregate(server_round, usable)
        self.server.round = server_round
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate metrics; a client that evaluated a version holds it."""
        usable = self.channel.usable("evaluate", server_round, replies)
        return self.inner.aggregate_evaluate(server_round, [reply.message for reply in usable])

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """As Flower's, but a run continues after the last round in its folder. `timeout`: a round's deadline, seconds.

        Replies after the deadline count as lost. The client learns this from its next bundle.
        """
        self.timeout = timeout
        self.summary()
        run_store = self._load(grid, initial_arrays)
        train_config, evaluate_config = train_config or ConfigRecord(), evaluate_config or ConfigRecord()
        result = run_store.result()
        if evaluate_fn is not None and not run_store.rounds and (found := evaluate_fn(0, initial_arrays)) is not None:
            result.evaluate_metrics_serverapp[0] = found
        result.arrays = self.arrays
        for number in range(self.server.round + 1, num_rounds + 1):
            log.info("[ROUND %s/%s]", number, num_rounds)
            asks = self.configure_train(number, result.arrays, train_config, grid)
            arrays, trained = self.aggregate_train(number, grid.send_and_receive(asks, timeout=timeout))
            result.arrays = arrays or result.arrays
            asks = list(self.configure_evaluate(number, result.arrays, evaluate_config, grid))
            evaluated = self.aggregate_evaluate(number, grid.send_and_receive(asks, timeout=timeout)) if asks else None
            evaluated_here = evaluate_fn(number, result.arrays) if evaluate_fn else None
            run_store.close_round(number, result, (trained, evaluated, evaluated_here), self.inner, self.quarantine)
        self.channel.farewell(grid, timeout, resumable=self.state is not None)
        return result

    # The parts of a round

    @property
    def arrays(self) -> ArrayRecord:
        """The server's model."""
        return self.layout.record(self.server.flat.named())

    def _chosen(self) -> set[int] | None:
        """The clients that train in this round; None: all that `inner` writes to."""
        return None

    def _load(self, grid: Grid, arrays: ArrayRecord) -> RunStore:
        """Build the server from the first arrays, or take arrays that somebody else has changed since."""
        if self.run_store is None:
            self.run_store = self._build(grid, arrays)
            return self.run_store
        theirs = self.layout.tensors(arrays, "compress")
        ours = self.server.flat.named()
        if not all(torch.equal(ours[name], x) for name, x in theirs.items()):
            self.server.replace(theirs)
        return self.run_store

    def _build(self, grid: Grid, arrays: ArrayRecord) -> RunStore:
        self.layout, method = Layout.of(arrays), self.method
        if not self.layout.floats():
            kind = type(self.inner).__name__
            raise LocalError(f"compress: no array of {kind} holds floats, so there is no update to compress; omit it")
        model = self.layout.module()
        FlatModel(model).load(self.layout.tensors(arrays, "compress"))
        plain = replace(method, factor=None, private=())  # the app's own arrays are the factors already
        self.server = Server(model, plain, self.key.fold("server"), common=self.key)
        common = identity(method, self.key) | {"model": str(self.layout.entries), "strategy": type(self.inner).__name__}
        run_store = RunStore(self.state, self.server, str(grid.run.run_id), common)
        run_store.restore(self.inner, self.quarantine)
        if self.state is not None:
            size = end_bytes(self.server)
            log.info(
                "fewbits: the server keeps %s bytes per client, in two or three versions: %s", f"{size:,}", self.state
            )
        said, weighted_by = identity(method, self.key), option(self.inner, "weighted_by_key")
        ledger, quarantine = run_store.ledger, self.quarantine
        self.channel = ClientChannel(self.server, self.layout, run_store.run, said, ledger, quarantine, weighted_by)
        self.channel.plain = self.plain
        return run_store

    def _aggregate(self, round: int, replies: list[ClientReply]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The inner strategy's aggregate of theta - update."""
        good, theta = [], self.server.flat.named()
        for reply in replies:
            try:
                update = clipped(self._update(round, reply), reply.clip)
                values = {name: theta[name] - x for name, x in update.items()}
                check_finite(values)
            except WireError as error:
                self.channel.offend(reply, round, str(error))
                continue
            metrics = {n: r for n, r in reply.message.content.items() if not isinstance(r, ArrayRecord)}
            reply.message.content = RecordDict({reply.arrays: self.layout.record(values), **metrics})
            good.append(reply.message)
        arrays, metrics = self.inner.aggregate_train(round, good) if good else (None, None)
        if arrays is None:
            return None, metrics
        self.server.replace(self.layout.tensors(arrays, "aggregate_train"))
        return self.arrays, metrics  # in the model's own types, as a run that goes on would have them

    def _update(self, round: int, reply: ClientReply) -> dict[str, Tensor]:
        """start - end of a client, out of its frame or its arrays."""
        if reply.client is None:
            return self._plain(reply)
        receiver, update = self.server.read(reply.client, reply.frame)
        self._count(round, reply, receiver)
        return {name.removeprefix(shared_values.BUFFER): x for name, x in update.items()}

    def _plain(self, reply: ClientReply) -> dict[str, Tensor]:
        """start - end of a client that sent arrays; WireError when they are not the model's or not finite."""
        if self.method.space is not None:
            raise WireError("in a run in subspaces every client needs the mod")
        theta = self.server.flat.named()
        try:
            found = self.layout.tensors(reply.message.content.array_records[reply.arrays], "its reply")
        except (KeyError, LocalError) as error:
            raise WireError(str(error)) from None
        check_finite(found)
        return {name: theta[name] - x for name, x in found.items()}

    def _count(self, round: int, reply: ClientReply, receiver: Receiver) -> None:
        """A frame that counts, in the ledger."""
        assert reply.client is not None and self.run_store is not None
        self.quarantine.behave(reply.client)
        size, found = len(reply.frame), stages(receiver.sections)
        self.run_store.ledger.add(Entry(round, reply.client, "up", size, size - HEADER_BYTES, found))


def check_finite(values: dict[str, Tensor]) -> None:
    """WireError names the first tensor that is not finite."""
    name = next((name for name, x in values.items() if not bool(torch.isfinite(x).all())), None)
    if name is not None:
        raise WireError(f"{name} is not finite")
