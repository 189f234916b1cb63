"""What the commands make of rehearsals: a run's settings by a choice, and its full command for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fewbits.cli.config import RunConfig
from fewbits.cli.options import TRAINING
from fewbits.cli.prepared import Found, prepare
from fewbits.methods.text import read
from fewbits.rng import Key
from fewbits.training.auto import Choice
from fewbits.training.rehearsal import Rehearsal

TASK = ("data", "data_dir", "model", "loss", "metric", "clients", "per_round", "split")


def rehearsal_of(config: RunConfig, found: Found, rounds: int, rates: bool, say: Callable[[str], None]) -> Rehearsal:
    """The rehearsals of a run, after the first ones; its method is not used.

    Args:
        config: the run's.
        found: its data set.
        rounds: of every first rehearsal.
        rates: whether the learning rate is to be chosen.
        say: told what is rehearsed next.
    """
    task = prepare(replace(config, method="dense", settings={}), found).task
    rehearsal = Rehearsal(task, config.schedule(), Key(config.seed), rounds, rates, say)
    rehearsal.open()
    return rehearsal


def with_candidate(config: RunConfig, method: str, lr: float, falling: int | None = None) -> RunConfig:
    """The same run by this method and rate."""
    text = read(method)
    return replace(config, method=text.name, settings=dict(text.settings), lr=lr, falling=falling)


def with_choice(config: RunConfig, choice: Choice) -> RunConfig:
    """The same run as it was chosen."""
    return replace(with_candidate(config, choice.method, choice.lr, choice.falling), chosen=choice.why)


def command(config: RunConfig, length: str, out: str) -> str:
    """The full command of the run, for a shell."""
    options = ",".join(f"{name}={value}" for name, value in config.settings.items())
    method = f"{config.method}@{options}" if options else config.method
    return shlex.join(["fewbits", "train", "--method", method, *arguments(config, length, out)])


def arguments(config: RunConfig, length: str, out: str) -> list[str]:
    """All of a command but the method."""
    words, default = list[str](), RunConfig()
    for name in (*TASK, *TRAINING, "seed", "device"):
        value: Any = getattr(config, name)
        if name in config.replaced:
            continue
        if name in ("data", "model") or value != getattr(default, name):
            words += ["--" + name.replace("_", "-"), f"{value:.6g}" if name == "lr" else str(value)]
    return [*words, *length.split(), "--out", out]
