"""Observer: what is told of a run while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.engines.simulation import Result, RoundReport


class Observer:
    """Told of a run's start, of each of its rounds, and of its end; give it as `log=[...]`.

    Override what you need. `on_start` may raise: the run does not begin. What the others raise ends no run; a note says
    it once. A comparison tells its observers of each of its runs in turn.

    Example:
        >>> import torch, fewbits as fb
        >>> class Printer(fb.simulation.Observer):
        ...     def on_round(self, report):
        ...         print(report.round, report.clients)
        >>> clients = [(torch.eye(3), torch.arange(3))] * 2
        >>> _ = fb.federate(torch.nn.Linear(3, 3), clients, "dense", rounds=2, log=[Printer()])
        1 2
        2 2
    """

    def on_start(self, name: str, config: Mapping[str, object], folder: Path | None) -> None:
        """A run is about to play its next round.

        Args:
            name: the method and the seed, such as "topk-seed0".
            config: the settings of the run: texts, numbers, lists and None.
            folder: where the run keeps its files; None: nowhere.
        """

    def on_round(self, report: RoundReport) -> None:
        """A round ended.

        Args:
            report: its figures.
        """

    def on_end(self, result: Result | None) -> None:
        """The run ended or was stopped after a round.

        Args:
            result: what it returns; None: it raised.
        """
