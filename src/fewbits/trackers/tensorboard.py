"""TensorBoard: event files, by torch's own writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.engines.simulation import Result, RoundReport
from fewbits.errors import LocalError
from fewbits.json_text import json_text
from fewbits.trackers.observer import Observer
from fewbits.trackers.values import values

FOLDER = "tensorboard"  # in the folder of the run
AGAINST_BYTES = ("accuracy", "loss", "metric")


class TensorBoard(Observer):
    """A curve per figure against rounds, and `by_bytes/...` against the bytes of both directions.

    Args:
        root: folder of the event files, one folder in it per run; "": `tensorboard` in the run's folder.
    """

    def __init__(self, root: str = "") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._root = SummaryWriter, root

    def on_start(self, name: str, config: Mapping[str, object], folder: Path | None) -> None:
        if not self._root and folder is None:
            raise LocalError("log: tensorboard writes files; give out=..., or a folder: log=['tensorboard:FOLDER']")
        self._writer = self._make(str(Path(self._root) / name if folder is None or self._root else folder / FOLDER))
        self._writer.add_text("config", f"```\n{json_text(dict(config), indent=2)}\n```".replace("\n", "\n    "))

    def on_round(self, report: RoundReport) -> None:
        found = values(report)
        for figure, value in found.items():
            self._writer.add_scalar(figure, value, report.round)
        for figure in AGAINST_BYTES:
            if figure in found:
                self._writer.add_scalar(f"by_bytes/{figure}", found[figure], int(found["bytes"]))
        self._writer.flush()

    def on_end(self, result: Result | None) -> None:
        self._writer.close()
