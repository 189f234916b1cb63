"""Whether a folder holds an earlier part of this very run: by its settings, and by the weights that it starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fewbits.engines.common import checkpoint
from fewbits.engines.common.logs import METRICS
from fewbits.errors import LocalError
from fewbits.files import placed
from fewbits.sizes import short_size

CHECKPOINTS = "checkpoints"  # their folder in that of a run
START, NEWEST = "initial model", "newest model"  # their names among a checkpoint's settings


def check_same_run(
    checkpoints: Path, folder: Path, settings: Mapping[str, str], start: str, rounds: int
) -> dict[str, str]:
    """The settings of a run that begins, or goes on, in `folder`; the initial model is among them then.

    A run goes on from its initial weights, or from those of a checkpoint: a call that trains a model in place is
    repeated with the trained model. Nothing changes here.

    Args:
        checkpoints: where its checkpoints are.
        folder: its folder, for the message.
        settings: what the parts of a run have in common.
        start: digest of the weights that this part was given.
        rounds: that the run shall have.

    Raises:
        LocalError: the folder holds another run, and the sentence names what differs, with both values; or it holds
            more rounds than that.
    """
    known: list[str] = []
    for note in checkpoint.notes(checkpoints):
        note.check_settings(folder, settings)
        check_longer(note.round, rounds)
        known += [note.settings[name] for name in (START, NEWEST) if name in note.settings]
    if known and start not in known:
        raise LocalError(
            f"{folder} holds another run; its {START}: {known[0]}; got {start}. Build the model from the same seed as "
            "then, or use a new folder"
        )
    return {**settings, START: known[0] if known else start}


def check_goes_on(folder: Path, rounds: int, budget: int | None) -> None:
    """LocalError when the run in `folder` has more rounds than that, or spent more bytes. Nothing changes there.

    Args:
        folder: of one run; a folder without one goes on, too.
        rounds: that the run shall have.
        budget: bytes that it may spend, both directions; None: there is no limit.
    """
    note = next(checkpoint.notes(folder / CHECKPOINTS), None)
    if note is None:
        return
    check_longer(note.round, rounds)
    spent = 0 if budget is None else _spent(folder / METRICS, note.sizes[METRICS])
    if budget is not None and spent > budget:
        raise LocalError(
            f"budget can be raised, not lowered: the run has spent {short_size(spent)}; got {short_size(budget)}"
        )


def _spent(metrics: Path, size: int) -> int:
    """Bytes of a run by the last line of its metrics, which had this size then; 0: there is none."""
    with placed(metrics), metrics.open("rb") as file:
        lines = file.read(size).splitlines()
    last = json.loads(lines[-1]) if lines else {}
    return last.get("up_frame_bytes", 0) + last.get("down_frame_bytes", 0)


def check_longer(before: int, rounds: int) -> None:
    """LocalError when a run that has, or was to have, `before` rounds shall end with fewer."""
    if rounds < before:
        raise LocalError(f"rounds can extend a run, not shorten it: it has {before}; got {rounds}")
