"""`fewbits recommend`: which method for which budget, from short rehearsals of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from fewbits.cli import options as o
from fewbits.cli.choice import command, rehearsal_of, with_candidate, with_choice
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import load_data
from fewbits.cli.screen import screen
from fewbits.report.fitted import fitted, two_lines
from fewbits.report.text import NONE, megabytes
from fewbits.training.auto import Choice
from fewbits.training.rehearsal import ROUNDS, Rehearsal
from fewbits.training.rehearsed import Rehearsed, frontier

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
    found = o.configured(given)
    at, rounds = given["at"], ROUNDS if given["rehearsal"] is None else given["rehearsal"]
    config = RunConfig(**{**found, "rounds": None if at is not None else RunConfig.rounds, "budget": at})
    console = screen()
    played = rehearsal_of(
        config, load_data(config), rounds, "lr" not in found,
        lambda line: console.print(line, markup=False, style="dim", soft_wrap=True),
    )  # fmt: skip
    choice = None if at is None else Choice.of(played)
    best = frontier(played.best_rates)
    console.print()
    console.print(table(played, best, at))
    plain, length = replace(config, rounds=RunConfig.rounds, budget=None), "" if at is None else f"--budget {at}"
    lines = [
        f"{number}: {command(with_candidate(plain, *named(one, played)), length, f'runs/recommended-{number}')}"
        for number, one in enumerate(best, 1)
    ]
    if choice is not None:
        lines += [f"for {at}: {command(with_choice(plain, choice), length, 'runs/recommended')}", choice.why]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in played.refused.values():
        console.print(f"left out: {sentence}", markup=False, style="yellow", soft_wrap=True)


def named(one: Rehearsed, played: Rehearsal) -> tuple[str, float, int | None]:
    """The method, its rate, and the rounds of a budget over which it falls."""
    falls = played.budget is not None and one.candidate.falls
    falling = one.rounds(played.budget, played.most) if falls else None
    return one.candidate.method, one.candidate.lr, falling


def table(played: Rehearsal, best: Sequence[Rehearsed], at: str | None) -> Table:
    """A line for each method at its best rate, the cheapest first; those on the frontier have numbers."""
    ordered = sorted(played.best_rates, key=lambda one: one.cost)
    numbers = [str(best.index(one) + 1) if one in best else "" for one in ordered]
    columns = {
        "method": ["method", *(two_lines(one.candidate.method) for one in ordered)],
        "number": ["no.", *numbers],
        "rate": ["rate", *(f"{one.candidate.lr:.3g}" for one in ordered)],
        "accuracy": ["accuracy", *(_percent(one.opening.accuracy) for one in ordered)],
        "cost": ["MB a round", *(megabytes(one.cost) for one in ordered)],
    }
    if at is not None:
        columns["rounds"] = [
            f"rounds for\N{NO-BREAK SPACE}{at}",
            *(f"{one.rounds(played.budget):,}" for one in ordered),
        ]
        then = [_percent(one.last.accuracy) if played.is_complete(one) else NONE for one in ordered]
        columns["then"] = ["accuracy then", *then]
    lines = [
        f"Measured on held-out examples after round {played.rounds} of a rehearsal, at the best rate that was tried. "
        "no.: on the frontier, no candidate is cheaper and better."
    ]
    if at is not None:
        lines.append(f"Accuracy then: of those that were rehearsed to the end of {at}.")
    return fitted(columns, below=lines)


def _percent(accuracy: float | None) -> str:
    return NONE if accuracy is None else f"{accuracy:.2%}"
