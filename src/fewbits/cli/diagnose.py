"""`fewbits diagnose`: measure a model's gradients before a method is chosen."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from fewbits.analysis.diagnosis import Central, Diagnosis, advise
from fewbits.analysis.diagnosis import diagnose as examine
from fewbits.analysis.diagnosis.central import Watch, check_rows
from fewbits.analysis.diagnosis.diagnose import bases, trainings
from fewbits.analysis.diagnosis.rules import FASTER, ROUNDS, Advice, comparison, first_choice
from fewbits.checks import check_count
from fewbits.cli import options as o
from fewbits.cli.choice import arguments, command, with_candidate
from fewbits.cli.config import RunConfig
from fewbits.cli.live import EVERY
from fewbits.cli.prepared import Found, initial_model, load_data
from fewbits.cli.screen import is_watched, screen
from fewbits.codecs.transforms.bases import KINDS
from fewbits.data import Data
from fewbits.engines.common.run_files import contents
from fewbits.errors import LocalError
from fewbits.files import check_folder
from fewbits.report.diagnosis import report
from fewbits.report.diagnosis.report import FIGURES, PAGE, PICTURE
from fewbits.report.diagnosis.table import dimensions, gradients, intrinsic, suggestions, terminal
from fewbits.report.text import duration
from fewbits.report.write import write
from fewbits.rng import Key

DIMS = tuple(2**power for power in range(4, 12))  # those up to the number of parameters
BLOCKS = 4

NUMBERS = "fewbits diagnose takes classes; {} has numbers to predict"
DEFAULTS = RunConfig(batch_size=32)
EPOCHS = 20
SPECIAL = {
    "limit": o.Option("Only the first so many examples.", None, int),
    "epochs": o.Option(f"Passes over the data, in each training. Default: {EPOCHS}.", None, int, ("--epochs",)),
    "blocks": o.Option(f"Parts of an epoch whose gradients are stored. Default: {BLOCKS}.", None, int),
    "dims": o.Option("Subspace dimensions, separated by commas. Default: 16,32,...,2048.", None, str),
    "basis": o.Option(f"Random bases: {', '.join(KINDS)}. Default: fastfood.", None, str),
    "lr": o.Option("Learning rate of SGD on all parameters."),
    "momentum": o.Option("Its momentum, from zero in every epoch."),
    "batch_size": o.Option("Examples per step; 0: all."),
    "out": o.Option("Folder for the report; must be new or empty.", None, Path),
    "force": o.Option("Replace the diagnosis that OUT holds.", None, bool, ("--force",), default=False),
}
NAMES = ("model", "data", "data_dir", "limit", "epochs", "blocks", "dims", "basis", "lr", "momentum", "batch_size")


@o.command((*NAMES, "seed", "out", "force"), SPECIAL, DEFAULTS, panels=False)
def diagnose(given: o.Given) -> None:
    """Train centrally and report how many directions the gradients use, and how many random ones are enough.

    Leaves diagnose.html, diagnose.png and diagnose.json in OUT, and prints the methods that the figures suggest.
    """
    fields = {name: value for name, value in o.configured(given).items() if name != "epochs"}
    config = replace(DEFAULTS, **fields)  # checks the names and numbers as `train` does
    folder = check_place(given["out"], given["force"])
    found = load_data(config, given["limit"])
    key, epochs, basis = Key(config.seed), given["epochs"], given["basis"] or "fastfood"
    epochs = EPOCHS if epochs is None else epochs
    train_x, train_y, test_x, test_y = examples(config.data, found, given["limit"])
    central = Central(train_x, train_y, test_x, test_y, config.sgd(), epochs, key.fold("batches"))
    module = initial_model(config, found)
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    dims = given["dims"]
    tried = o.numbers(dims, "--dims") if dims is not None else tuple(d for d in DIMS if d <= size) or (size,)
    blocks = min(BLOCKS, central.steps) if given["blocks"] is None else given["blocks"]
    bases(size, tried, key, basis)  # a mistake is found before a folder is made
    check_rows(size, epochs, central.steps, blocks)
    folder.mkdir(parents=True, exist_ok=True)
    console, began = screen(), time.monotonic()
    with _progress(console, epochs * trainings(tried, size)) as watch:
        result = examine(module, central, tried, key, blocks, basis, watch)
    settings = {"model": config.model, "data": config.data, "limit": given["limit"], "epochs": epochs, "blocks": blocks}
    settings |= {"dims": list(tried), "basis": basis, "lr": config.lr, "momentum": config.momentum}
    settings |= {"batch_size": config.batch_size, "seed": config.seed}
    _conclude(folder, result, settings, config, console)
    sentence = f"report: {folder / PAGE}, after {time.monotonic() - began:.0f} s"
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def examples(name: str, found: Found, limit: int | None) -> tuple[Tensor, ...]:
    """Training and test inputs and targets, of all clients; LocalError unless the targets are classes.

    A listed data set was loaded within the limit.
    """
    if isinstance(found, Data):
        if found.scale is not None:
            raise LocalError(NUMBERS.format(name))
        return found.train_x, found.train_y, found.test_x, found.test_y
    if limit is not None:
        check_count("limit", limit)
    x, y = found.pairs
    if y.dtype.is_floating_point:
        raise LocalError(NUMBERS.format(name))
    if found.test_x is None or found.test_y is None:
        raise LocalError(f"fewbits diagnose measures accuracies, but {name} has no pair of tensors as its test set")
    return tuple(some(tensor, limit) for tensor in (x, y, found.test_x, found.test_y))


def some(x: Tensor, limit: int | None) -> Tensor:
    """At most so many rows, spread over all: the rows of a client stand together."""
    return x if limit is None or limit >= len(x) else x[torch.arange(limit) * len(x) // limit]


def commands(found: Diagnosis, advice: tuple[Advice, ...], config: RunConfig) -> tuple[str, str]:
    """The run that is advised, and the comparison that measures the advice; both at a rate that falls."""
    advised = with_candidate(config, first_choice(found, advice), FASTER * config.lr, ROUNDS)
    length = f"--rounds {ROUNDS}"
    seeds = f" --seeds {config.seed}" if config.seed else ""
    rest = arguments(replace(advised, seed=0), length + seeds, "runs/compare")
    compared = shlex.join(["fewbits", "compare", "--methods", comparison(found, advice), *rest])
    return command(advised, length, "runs/advised"), compared


def _conclude(
    folder: Path, result: Diagnosis, settings: dict[str, object], config: RunConfig, console: Console
) -> None:
    """Write the files, show the tables."""
    advice = advise(result)
    advised, compared = commands(result, advice, config)
    notes = write(folder, report(result, advice, settings, f"{advised}\n{compared}"))
    console.print()
    console.print(terminal(gradients(result), "How many directions the gradients use"))
    console.print(terminal(dimensions(result), "How many random directions are enough"))
    console.print(intrinsic(result), markup=False, highlight=False)
    console.print()
    console.print(terminal(suggestions(advice), "What the figures suggest, by rules of thumb", text=True))
    console.print(f"try first: {advised}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"measure it: {compared}", markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False, style="yellow")


def check_place(out: Path | None, force: bool) -> Path:
    """The folder; LocalError unless it is new or empty, or it holds a diagnosis and `force` is given."""
    if out is None:
        raise LocalError("give --out, a new folder for the report, such as --out runs/diagnosis")
    check_folder(out)
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names - {FIGURES, PICTURE, PAGE}:
        raise LocalError(f"{out} holds {contents(out)}, and no diagnosis alone; give another folder")
    if names and not force:
        raise LocalError(f"{out} already holds a diagnosis; replace it with --force or give another folder")
    return out


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Watch]:
    """One bar over all epochs of all trainings; elsewhere than on a terminal, a line in ten seconds at most."""
    began, said, done = time.monotonic(), -EVERY, 0
    columns: Sequence[TextColumn | BarColumn] = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:>4.0f}/{task.total:.0f} epochs {task.fields[times]}"),
    )
    watched = is_watched(console)
    progress = Progress(*columns, console=console, auto_refresh=False, disable=not watched)
    task = progress.add_task("all", total=total, times="")

    def watch(name: str) -> None:
        nonlocal said, done
        done += 1
        elapsed = time.monotonic() - began
        left = f", {duration(elapsed / done * (total - done))} left" if done < total else ""
        times = f"{duration(elapsed)}{left}"
        progress.update(task, advance=1, description=f"{name:>9}", times=times, refresh=True)
        if not watched and (done == total or elapsed - said >= EVERY):
            said = elapsed
            console.print(f"{name}: epoch {done}/{total}, {times}", markup=False, highlight=False)

    with progress:
        yield watch
