"""Federated: the server of fewbits as a Flower strategy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fewbits.engines.flower.client_channel import ClientReply
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.run_store import RunStore
from fewbits.engines.flower.strategy import Compressed
from fewbits.errors import WireError
from fewbits.learn.method import Method
from fewbits.rng import Key


class Federated(Compressed):
    """The server of fewbits on Flower: it samples by client number, and sums frames before they are expanded.

    For one key it makes the same frames and the same model, bit for bit, as the engine `simulation`.

    Args:
        method: the clients' method.
        clients: how many partitions there are.
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

    takes_subspaces: ClassVar[bool] = True

    def __init__(
        self,
        method: Method,
        clients: int,
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

    def _build(self, grid: Grid, arrays: ArrayRecord) -> RunStore:
        """Wait until there are as many nodes as clients, but no longer than a round may take."""
        until = time.monotonic() + self.timeout
        while len(list(grid.get_node_ids())) < self.clients and time.monotonic() < until:
            time.sleep(1)
        return super()._build(grid, arrays)

    def _chosen(self) -> set[int]:
        return set(self.server.sample(self.clients, self.per_round))

    def _aggregate(self, round: int, replies: list[ClientReply]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        inner, good = self.inner, []
        assert isinstance(inner, FedAvg)
        for reply in replies:
            try:
                if reply.client is None:
                    self.server.add(self._plain(reply), reply.weight)
                elif not reply.weight:
                    self._update(round, reply)  # the link moves on, the sum does not
                else:
                    self._count(round, reply, self.server.take(reply.client, reply.frame, reply.weight))
            except WireError as error:
                self.channel.offend(reply, round, str(error))
                continue
            good.append(reply.message.content)
        self.server.step()
        for client, why in self.server.left_out.items():
            self.channel.say(f"round {round}: client {client} is left out: {why}")
        return self.arrays, inner.train_metrics_aggr_fn(good, inner.weighted_by_key) if good else None
