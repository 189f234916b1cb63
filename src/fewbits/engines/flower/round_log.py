"""RoundLog: which round is open, which ones a run in a folder had finished before, and what the metrics were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from fewbits.engines.common.failed_turn import sentence
from fewbits.engines.flower.run_store import KINDS, RunStore

log = logging.getLogger("flwr")

Evaluate = Callable[..., MetricRecord | None]


class RoundLog:
    """Follow the rounds of one run as a strategy's `start` plays them.

    A `start` always begins at round 1. In rounds that the run finished before, nobody is asked, and the metrics are
    those that were stored.
    """

    def __init__(self, store: RunStore, close: Callable[[int, dict[str, MetricRecord | None]], None]) -> None:
        """`close` brings a finished round to disk."""
        self.finished = store.server.round  # rounds of this run before this process
        self.last = 0  # the last round that clients were asked in
        self.evaluate: Evaluate | None = None  # at the server, as the user gave it
        self._store, self._close = store, close
        self._open: dict[str, MetricRecord | None] | None = None

    def over(self, round: int) -> bool:
        """Whether the round was finished before this process began."""
        return round <= self.finished

    def begin(self, round: int) -> None:
        """Clients are asked to train."""
        self.close()
        self.last, self._open = round, {}

    def enter(self, kind: str, metrics: MetricRecord | None) -> None:
        """Metrics of the open round; the last kind closes it."""
        if self._open is None:
            return
        self._open[kind] = metrics
        if kind == KINDS[2] or (kind == KINDS[1] and self.evaluate is None):
            self.close()

    def close(self) -> None:
        """Close the round that is open, if one is."""
        if self._open is not None:
            metrics, self._open = {kind: self._open.get(kind) for kind in KINDS}, None
            self._close(self.last, metrics)

    def evaluated(self, round: int, *arrays: Any, **more: Any) -> MetricRecord | None:
        """The user's function, in rounds that are played now; what it raises after round 0 costs its metrics alone."""
        assert self.evaluate is not None
        if 0 < round <= self.finished:
            return None
        if not round:
            return self.evaluate(round, *arrays, **more)
        found = self._tried(self.evaluate, round, *arrays, **more)
        self.enter(KINDS[2], found)
        return found

    @staticmethod
    def _tried(evaluate: Evaluate, round: int, *arrays: Any, **more: Any) -> MetricRecord | None:
        try:
            return evaluate(round, *arrays, **more)
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            log.warning("fewbits: round %d: the evaluation at the server failed: %s", round, sentence(error))
            return None

    def complete(self, result: Any, arrays: ArrayRecord) -> None:
        """Put the metrics of earlier rounds into a Result, in order; an overridden `start` may return anything."""
        if not isinstance(result, Result):
            return
        for kind in KINDS:
            found = self._store.metrics(kind) | getattr(result, kind)
            setattr(result, kind, dict(sorted(found.items())))
        if not result.arrays:
            result.arrays = arrays
