"""`fewbits export`: the model that a run left, as one frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fewbits.cli.play import MODEL
from fewbits.codecs import Raw, chain, flat
from fewbits.errors import LocalError
from fewbits.link import Sender, save_model
from fewbits.rng import Key
from fewbits.spec import Spec

FRAME = "model.frame"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="Where to; RUN/model.frame when not given.")] = None,
) -> None:
    """Save a run's final model as one frame of values and where they are; what is zero costs almost nothing.

    `fewbits inspect` shows what is in it, and `fewbits.load_model` gives the state dict back, bit for bit. OUT.json
    beside it has the names and shapes.
    """
    state, target = _state(run), out or run / FRAME
    floats = {name: x for name, x in state.items() if x.is_floating_point()}
    dense = len(Sender(flat(chain(Raw())), Spec.of(floats), Key(0)).send(floats))
    size, numbers = save_model(state, target), sum(x.numel() for x in floats.values())
    left = sum(int(x.count_nonzero()) for x in floats.values())
    table = Table("as", header_style="bold")
    for name in ("bytes", "of dense", "bits per number"):
        table.add_column(name, justify="right")
    for name, length in ((f"dense frame, {numbers:,} numbers", dense), (f"{target}, {left:,} not zero", size)):
        table.add_row(name, f"{length:,}", f"{length / dense:.1%}", f"{8 * length / numbers:.2f}")
    Console().print(table)


def _state(run: Path) -> dict[str, Tensor]:
    """The tensors of the run's final model."""
    path = run / MODEL
    try:
        return load(path.read_bytes())
    except OSError:
        raise LocalError(f"{run} holds no finished run: there is no {MODEL}") from None
    except SafetensorError as error:
        raise LocalError(f"{path} is not a safetensors file: {error}") from None
