"""The output folder: files are replaced only with --force, and only those that a run left."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewbits.cli import comparison, config, run_file
from fewbits.ctrl_c import STOP
from fewbits.engines.common.run_files import CALL, contents, left_nothing, of_a_call
from fewbits.engines.common.run_lock import LOCK, RunLock, check_unused
from fewbits.errors import LocalError
from fewbits.files import check_folder

SETTINGS = config.NAME, comparison.NAME
FILES = (
    *("metrics.jsonl", "ledger.jsonl", "wire.json", "model.safetensors", "model.frame", "model.frame.json"),
    *("nodes.safetensors", "vectors.bin", "summary.json", "report.html", "accuracy.png", "gossip.png"),
    *(*SETTINGS, run_file.NAME),
)
Run = config.RunConfig | comparison.Comparison
FOLDERS = ("checkpoints", "states", "frames", "downlink", "tensorboard")


def is_ours(folder: Path) -> bool:
    """Whether the folder holds a run or a comparison."""
    return any((folder / name).is_file() for name in SETTINGS)


def check_free(folder: Path, force: bool) -> None:
    """LocalError unless the folder can be written to, and is new, empty, or holds a run and `force` is given.

    A run that goes on there is named first: neither --resume nor --force would help.
    """
    check_folder(folder)
    check_unused(folder)
    if not folder.exists() or left_nothing(folder):
        return
    if of_a_call(folder):
        raise LocalError(f"{folder} holds {CALL}, or give another folder")
    if not is_ours(folder):
        raise LocalError(f"{folder} holds {contents(folder)}, and no run of this program; give another folder")
    if not force:
        raise LocalError(f"{folder} already holds {_described(folder)} or replace it with --force")


def _described(folder: Path) -> str:
    """What the folder holds, and how to continue it."""
    note = folder / comparison.NAME
    if not note.is_file():
        return f"a run; continue it with fewbits train --resume {folder}"
    command = "gossip" if '"topology"' in note.read_text(encoding="utf-8") else "compare"
    return f"a comparison; continue it with fewbits {command} --resume {folder}"


def claim(folder: Path, force: bool, run: Run) -> None:
    """Make the folder ready for a new run, and leave its settings there: a run killed from now on can be resumed."""
    check_free(folder, force)
    with STOP:
        if folder.exists():
            wipe(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run_file.write_settings(run, folder)
        take_up(folder, run)


def take_up(folder: Path, run: Run) -> None:
    """From here on the folder holds this run, and Ctrl-C says how to continue it; LocalError when it is in use."""
    check_unused(folder)
    STOP.sentence = f"stopped; continue with: {again(folder, run)}"


def again(folder: Path, run: Run) -> str:
    """The command that continues the run in its folder."""
    return f"fewbits {run.command} --resume {folder}"


def wipe(folder: Path) -> None:
    """Remove the files of runs, in this folder and in the runs of a comparison below it; other files stay.

    LocalError when a run of another process is going on in one of them; nothing is removed from that one.
    """
    _lock = RunLock.of(folder)
    for child in sorted(folder.iterdir(), key=lambda child: child.name in SETTINGS):  # these last: it stays a run
        if child.is_dir() and child.name in FOLDERS:
            shutil.rmtree(child)
        elif child.is_dir() and not child.is_symlink() and is_ours(child):
            wipe(child)
            (child / LOCK).unlink(missing_ok=True)  # ours since a moment ago
            if not any(child.iterdir()):
                child.rmdir()
        elif child.name.removesuffix(".part") in FILES:
            child.unlink()
