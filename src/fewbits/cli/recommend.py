"""`fewbits recommend`: which method for which budget, from a short rehearsal of each candidate."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from fewbits.cli import options as o
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import load_data
from fewbits.cli.rehearsal import ROUNDS, Rehearsed, choose, command, frontier, rehearse
from fewbits.cli.screen import screen
from fewbits.report.table import captioned, fitted, two_lines
from fewbits.report.text import NONE, megabytes
from fewbits.sizes import read_budget

SPECIAL = {
    "at": o.Option("The bytes of a run, both directions: 2MB, or 20kB/client.", None, str, (), "SIZE"),
    "rehearsal": o.REHEARSAL,
}
NAMES = ("at", "rehearsal", "data", "data_dir", "model", "clients", "per_round", "split", *o.TRAINING)


@o.command((*NAMES, "seed", "processes", "device"), SPECIAL)
def recommend(given: o.Given) -> None:
    """Rehearse methods, fine and coarse, on the task itself; print what each costs and reaches, and the best commands.

    Nothing is left on disk. `fewbits train --method auto --budget SIZE` does the same, and trains by the best one.
    """
    config = RunConfig(**o.configured(given))
    at, rounds = given["at"], ROUNDS if given["rehearsal"] is None else given["rehearsal"]
    budget = None if at is None else read_budget(at, config.clients)
    console = screen()
    done, refused = rehearse(
        config, load_data(config), rounds, lambda line: console.print(line, markup=False, style="dim", soft_wrap=True)
    )
    best = frontier(done, budget)
    console.print()
    console.print(table(done, best, at, budget, rounds))
    length = "" if at is None else f"--budget {at}"
    for number, one in enumerate(best, 1):
        line = f"{number}: {command(config, one.method, length, f'runs/recommended-{number}')}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if budget is not None:
        line = f"for {at}: {best.index(found) + 1} is the best" if (found := choose(done, budget)) in best else None
        line = line or f"for {at}: {found.method} is the best"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in refused:
        console.print(f"not rehearsed: {sentence}", markup=False, style="yellow", soft_wrap=True)


def table(
    done: Sequence[Rehearsed], best: Sequence[Rehearsed], at: str | None, budget: int | None, rounds: int
) -> Table:
    """A line for each candidate, the cheapest first; those on the frontier have numbers."""
    ordered = sorted(done, key=lambda one: one.cost)
    numbers = [str(best.index(one) + 1) if one in best else "" for one in ordered]
    columns = {
        "method": ["method", *(two_lines(str(one.method)) for one in ordered)],
        "number": ["no.", *numbers],
        "accuracy": ["accuracy", *(f"{one.accuracy:.2%}" for one in ordered)],
        "cost": ["MB a round", *(megabytes(one.cost) for one in ordered)],
    }
    if budget is not None:
        bought = [(one.rounds(budget), one.accuracy_for(budget)) for one in ordered]
        columns["rounds"] = [f"rounds for\N{NO-BREAK SPACE}{at}", *(f"{count:,}" for count, _ in bought)]
        columns["then"] = ["accuracy then", *(NONE if found is None else f"{found:.2%}" for _, found in bought)]
    lines = [f"Measured in a rehearsal of {rounds} rounds. no.: on the frontier, no candidate is cheaper and better."]
    if budget is not None:
        lines.append(f"Accuracy then: after these rounds, or after {rounds} of them where there are more.")
    return captioned(fitted(columns, ()), lines)
