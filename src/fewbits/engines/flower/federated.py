"""Federated: the server of fewbits as a Flower strategy."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fewbits.engines.flower import arrival
from fewbits.engines.flower.clipping import CLIP
from fewbits.engines.flower.layout import CARRIED
from fewbits.engines.flower.metric_functions import TRAIN
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.replies import ClientReply
from fewbits.engines.flower.run_store import RunStore
from fewbits.engines.flower.strategy import Aggregate, Compressed
from fewbits.errors import LocalError, WireError
from fewbits.learn.method import Method
from fewbits.rng import Key

log = logging.getLogger("flwr")


class Federated(Compressed):
    """The server of fewbits on Flower: it samples by client number, and sums frames before they are expanded.

    For one key it makes the same frames and the same model, bit for bit, as the engine `simulation`.

    Args:
        method: the clients' method.
        clients: how many partitions there are; None: as many as nodes, once no new one comes.
        per_round: clients sampled per round; None: all.
        key: the clients' key.
        state: a folder, in which a killed run continues; None: in memory only.
        quorum: with fewer usable replies the model stays as it is.
        quarantine: how long a client rests after replies that could not be used.
        evaluate: share of the nodes that evaluate the model after each round.

    Raises:
        LocalError: the method changes local training, or needs masks, dp or a personal downlink.

    Example:
        >>> from fewbits import methods
        >>> Federated(methods.named("intrinsic"), clients=100, per_round=10).per_round
        10
    """

    attributes = Compressed.attributes | {"clients", "per_round", "wait"}
    sums_frames: ClassVar[bool] = True
    wait = 60.0  # seconds for nodes to come before the first round, which then begins with fewer

    def __init__(
        self,
        method: Method,
        clients: int | None,
        per_round: int | None = None,
        key: Key = Key(0),
        state: Path | str | None = None,
        quorum: int = 1,
        quarantine: Quarantine | None = None,
        evaluate: float = 1.0,
    ) -> None:
        inner = FedAvg(
            fraction_evaluate=evaluate, min_train_nodes=quorum, min_evaluate_nodes=0, min_available_nodes=quorum
        )
        super().__init__(inner, method, key, state, quorum, quarantine)
        self.clients, self.per_round = clients, per_round or clients

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Bundles for this round's clients; LocalError when they would have to clip."""
        if CLIP in config:
            raise LocalError(
                f"federated: the configuration has {CLIP!r}, for Flower's mods that clip; this server sums frames "
                "before they are expanded and cannot clip them again. Take compress(DifferentialPrivacyClientSide...)"
            )
        return super().configure_train(server_round, arrays, config, grid)

    def _build(self, grid: Grid, arrays: ArrayRecord) -> RunStore:
        """Wait for as many nodes as clients, but not for ever and no longer than a round may take."""
        wait = min(self.wait, self.timeout)
        here = arrival.gather(grid, self.clients, wait)
        run_store = super()._build(grid, arrays)
        if note := arrival.fewer(here, self.clients, wait):
            self.channel.say(note)
        self.clients = self.clients or here
        self.per_round = min(self.per_round or self.clients, self.clients)
        stay = [entry.name for entry in self.layout.entries if entry.kind == CARRIED]
        if stay:
            log.info("fewbits: the server sums floats alone; as they began stay %s", ", ".join(stay))
        return run_store

    def _chosen(self) -> set[int]:
        assert self.clients is not None and self.per_round is not None  # since _build
        return set(self.server.sample(self.clients, self.per_round))

    def _aggregate(self, round: int, replies: list[ClientReply], failures: list[Message]) -> Aggregate:
        inner, good = self.inner, []
        assert isinstance(inner, FedAvg)
        for reply in replies:
            try:
                self._add(round, reply)
                good.append(reply)
            except WireError as error:
                failures.append(self.channel.offend(reply, round, str(error)))
        self.server.step()
        if self.server.void:
            self.channel.say(f"round {round}: {self.server.void}")
        for client, why in self.server.left_out.items():
            self.channel.say(f"round {round}: client {client} is left out: {why}")
        self._latest = self.arrays
        log.info("aggregate_train: Received %s results and %s failures", len(good), len(failures))
        if not good or self.channel.demands.weightless(good):
            return self._latest, None
        messages, most = self.channel.demands.alike(good, self.channel.say_once)
        contents = [message.content for message in messages]
        with self.channel.metrics(TRAIN, round, most):
            return self._latest, inner.train_metrics_aggr_fn(contents, inner.weighted_by_key)

    def _add(self, round: int, reply: ClientReply) -> None:
        """Add one client's update to the sum; WireError when it cannot be used."""
        if reply.client is None:
            update = self.decoder.plain_update(reply)
            if reply.weight:
                self.server.add(update, reply.weight)
        elif reply.custom:
            raise WireError("the server sums frames only")
        elif not reply.weight:
            self.decoder.count(round, reply, self.server.read(reply.client, reply.frame)[0])  # the sum does not move
        else:
            self.decoder.count(round, reply, self.server.take(reply.client, reply.frame, reply.weight))
