"""MLflow: a run of mlflow for each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.engines.simulation import Result, RoundReport
from fewbits.trackers.observer import Observer
from fewbits.trackers.values import values


class MLflow(Observer):
    """Figures by round as metrics, the settings as parameters.

    Args:
        experiment: of MLflow; "": the current one.
    """

    def __init__(self, experiment: str = "") -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow, self._experiment = mlflow, experiment

    def on_start(self, name: str, config: Mapping[str, object], folder: Path | None) -> None:
        if self._experiment:
            self._mlflow.set_experiment(self._experiment)
        self._mlflow.start_run(run_name=name, nested=True)  # within the caller's own run, if there is one
        self._mlflow.log_params({key: str(value) for key, value in config.items()})

    def on_round(self, report: RoundReport) -> None:
        self._mlflow.log_metrics(values(report), step=report.round)

    def on_end(self, result: Result | None) -> None:
        self._mlflow.end_run("FAILED" if result is None else "FINISHED")
