"""Federated: the server of fewbits as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fewbits.engines.flower import arrival
from fewbits.engines.flower.client_channel import ClientReply
from fewbits.engines.flower.clipping import CLIP
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.run_store import RunStore
from fewbits.engines.flower.strategy import Compressed
from fewbits.errors import LocalError, WireError
from fewbits.learn.method import Method
from fewbits.rng import Key


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

    takes_subspaces: ClassVar[bool] = True
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
        return run_store

    def _chosen(self) -> set[int]:
        assert self.clients is not None and self.per_round is not None  # since _build
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
        return self.arrays, inner.train_metrics_aggr_fn(good, inner.weighted_by_key) if good else None
