"""`fewbits demo`: five methods on one small task, in under a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli import play
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import RunConfig
from fewbits.cli.folder import check_free, claim
from fewbits.cli.prepared import load_data
from fewbits.cli.screen import screen

TASK = RunConfig(data="digits", model="mlp", clients=20, split="classes:3", rounds=60, lr=0.1, batch_size=20, epochs=2)
METHODS = ("dense", "topk", "lbgm", "lbgm+topk", "intrinsic+deadzone")
# The papers send a dense downlink. A short one makes the saving in the uplink visible in the sum.
SETTINGS = (
    *(f"{method}.down=delta4" for method in METHODS[1:4]),
    *(f"intrinsic+deadzone.{option}" for option in ("dim=2048", "bits=1", "down=own1")),
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; an earlier one is replaced.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
) -> None:
    """Train a small model on handwritten digits by five methods; show accuracy against bytes. No download is needed."""
    comparison = Comparison(TASK, METHODS, (seed,), SETTINGS)
    check_free(out, force=True)
    compared = play.Compared(comparison, load_data(TASK))
    compared.check()  # a mistake is found before anything is removed
    claim(out, True, comparison)
    console = screen()
    console.print(f"{TASK.clients} clients with three digits each, {TASK.rounds} rounds, five methods", highlight=False)
    play.compare(compared, out, console, "fewbits demo: five methods, one task")
