"""`fewbits diagnose`: what a model's gradients allow, before a method is chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fewbits import data as sets
from fewbits import models
from fewbits.analysis.diagnosis import Central, Diagnosis, advise
from fewbits.analysis.diagnosis import diagnose as examine
from fewbits.analysis.diagnosis.central import Watch, check_rows
from fewbits.analysis.diagnosis.diagnose import bases, trainings
from fewbits.analysis.diagnosis.rules import comparison
from fewbits.cli import options as o
from fewbits.cli.config import RunConfig
from fewbits.codecs.transforms.bases import KINDS
from fewbits.errors import LocalError
from fewbits.report.diagnosis import write
from fewbits.report.diagnosis.table import dimensions, gradients, intrinsic, suggestions, terminal
from fewbits.report.diagnosis.write import FIGURES, PAGE, PICTURE
from fewbits.rng import Key

DIMS = tuple(2**power for power in range(4, 12))  # those that a model has parameters for
BLOCKS = 4

Out = Annotated[Path | None, typer.Option(help="Folder for the report; must be new or empty.", show_default=False)]
Dims = Annotated[
    str | None,
    typer.Option(help="Subspace dimensions, separated by commas. Default: 16,32,...,2048.", show_default=False),
]
Blocks = Annotated[
    int | None, typer.Option(help="Parts of an epoch whose gradients are kept. Default: 4.", show_default=False)
]


def diagnose(
    model: Annotated[str, typer.Option(help="Model; `fewbits models` lists them.")] = "mlp",
    data: Annotated[str, typer.Option(help="Data set; `fewbits data` lists them.")] = "digits",
    data_dir: o.DataDir = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many examples.", show_default=False)] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data, in each training.")] = 20,
    blocks: Blocks = None,
    dims: Dims = None,
    basis: Annotated[str, typer.Option(help=f"Random bases: {', '.join(KINDS)}.")] = "fastfood",
    lr: Annotated[float, typer.Option(help="Learning rate of SGD on all parameters.")] = 0.1,
    momentum: Annotated[float, typer.Option(help="Its momentum, from zero in every epoch.")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Examples per step; 0: all.")] = 32,
    seed: Annotated[int, typer.Option(help="Of everything: same seed, same figures.")] = 0,
    out: Out = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the diagnosis that OUT holds.")] = False,
) -> None:
    """Train centrally and report how many directions the gradients use, and how many random ones would be enough.

    Leaves diagnose.html, diagnose.png and diagnose.json in OUT, and says which methods the figures suggest.
    """
    config = RunConfig(  # checks the names and numbers as `train` does
        data=data, model=model, lr=lr, momentum=momentum, batch_size=batch_size, seed=seed
    )
    folder = check_place(out, force)
    found = sets.load(data, data_dir, limit=limit)
    key = Key(seed)
    central = Central(
        found.train_x, found.train_y, found.test_x, found.test_y, config.local(), epochs, key.fold("batches")
    )
    module = models.build(model, found, key.fold("model"))
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    tried = o.numbers(dims, "--dims") if dims is not None else tuple(d for d in DIMS if d <= size) or (size,)
    blocks = min(BLOCKS, central.steps) if blocks is None else blocks
    bases(size, tried, key, basis)  # a mistake is told of before a folder is made
    check_rows(size, epochs, central.steps, blocks)
    folder.mkdir(parents=True, exist_ok=True)
    console, begun = Console(), time.monotonic()
    with _progress(console, epochs * trainings(tried, size)) as watch:
        result = examine(module, central, tried, key, blocks, basis, watch)
    settings = {"model": model, "data": data, "limit": limit, "epochs": epochs, "blocks": blocks, "dims": list(tried)}
    settings |= {"basis": basis, "lr": lr, "momentum": momentum, "batch_size": batch_size, "seed": seed}
    place = f" --data-dir {data_dir}" if data_dir is not None else ""
    compare = f"--data {data}{place} --model {model} --out runs/compare"
    _conclude(folder, result, settings, compare, console)
    sentence = f"report: {folder / PAGE}, after {time.monotonic() - begun:.0f} s"
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _conclude(folder: Path, result: Diagnosis, config: dict[str, object], compare: str, console: Console) -> None:
    """Write the files, show the tables."""
    advice = advise(result)
    command = f"fewbits compare {comparison(result, advice)} {compare}"
    notes = write(folder, result, advice, config, command)
    console.print()
    console.print(terminal(gradients(result), "How many directions the gradients use"))
    console.print(terminal(dimensions(result), "How many random directions are enough"))
    console.print(intrinsic(result), markup=False, highlight=False)
    console.print()
    console.print(terminal(suggestions(advice), "What the figures suggest, by rules of thumb", text=True))
    console.print(f"measure it: {command}", markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False, style="yellow")


def check_place(out: Path | None, force: bool) -> Path:
    """The folder; LocalError unless it is new or empty, or `force` and what it holds is a diagnosis."""
    if out is None:
        raise LocalError("give --out, a new folder for the report, such as --out runs/diagnosis")
    if out.exists() and not out.is_dir():
        raise LocalError(f"{out} is a file; give a folder")
    held = {path.name for path in out.iterdir()} if out.exists() else set()
    if held - {FIGURES, PICTURE, PAGE}:
        raise LocalError(f"{out} is not empty, and what it holds is no diagnosis; give another folder")
    if held and not force:
        raise LocalError(f"{out} already holds a diagnosis; replace it with --force or give another folder")
    return out


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Watch]:
    """One bar over all epochs of all trainings."""
    columns: Sequence[TextColumn | BarColumn] = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:>4.0f}/{task.total:.0f} epochs"),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("all", total=total)

        def watch(name: str) -> None:
            progress.update(task, advance=1, description=f"{name:>9}", refresh=True)

        yield watch
