"""The logs of a run: one JSON object a line. A resume cuts them to the length that its checkpoint names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewbits.errors import LocalError
from fewbits.files import placed, sync
from fewbits.json_text import json_text
from fewbits.links import Ledger

LEDGER, METRICS = "ledger.jsonl", "metrics.jsonl"


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Append one line to the metrics."""
    with placed(folder / METRICS), (folder / METRICS).open("a") as file:
        file.write(json_text(line) + "\n")


def resume_logs(folder: Path, sizes: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """Cut the logs to the sizes in a checkpoint, or empty them for None; the lines of metrics that remain."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LEDGER, METRICS):
        cut_log(folder / name, sizes[name] if sizes else 0)
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def sync_logs(folder: Path, ledger: Ledger) -> dict[str, int]:
    """Bring the logs to disk; their sizes, for a checkpoint."""
    (folder / METRICS).touch()
    sizes = {LEDGER: ledger.flush(), METRICS: (folder / METRICS).stat().st_size}
    for name in (LEDGER, METRICS):
        sync(folder / name)
    return sizes


def cut_log(path: Path, size: int) -> None:
    """Drop what was logged after the checkpoint; LocalError when something from before it is missing."""
    path.touch()
    if path.stat().st_size < size:
        raise LocalError(f"{path} is shorter than its checkpoint says ({path.stat().st_size} of {size} bytes)")
    os.truncate(path, size)
