"""The logs of a run: one JSON object a line; a resume cuts them to the length that its checkpoint names."""

from __future__ import annotations

import os
from pathlib import Path

from fewbits.errors import LocalError

LEDGER, METRICS = "ledger.jsonl", "metrics.jsonl"


def cut_log(path: Path, size: int) -> None:
    """Drop what was logged after the checkpoint; LocalError when something from before it is missing."""
    path.touch()
    if path.stat().st_size < size:
        raise LocalError(f"{path} is shorter than its checkpoint says ({path.stat().st_size} of {size} bytes)")
    os.truncate(path, size)
