"""Weights & Biases: a run of wandb for each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.engines.simulation import Result, RoundReport
from fewbits.trackers.observer import Observer
from fewbits.trackers.values import values


class WeightsAndBiases(Observer):
    """Figures by round, the settings as the run's config, and what was reached as its summary.

    Args:
        project: of wandb; "": what wandb's own settings say, such as WANDB_PROJECT.
    """

    def __init__(self, project: str = "") -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb, self._project = wandb, project or None

    def on_start(self, name: str, config: Mapping[str, object], folder: Path | None) -> None:
        # Another run of the same process may be open, the caller's own or that of an observer.
        self._run = self._wandb.init(project=self._project, name=name, config=dict(config), reinit="create_new")

    def on_round(self, report: RoundReport) -> None:
        self._run.log(values(report), step=report.round)

    def on_end(self, result: Result | None) -> None:
        self._run.finish(exit_code=int(result is None))
