"""`fewbits train` and `fewbits compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fewbits.cli import options as o
from fewbits.cli import play
from fewbits.cli.assemble import build_model, build_task, load_data
from fewbits.cli.comparison import Comparison, pairs
from fewbits.cli.config import RunConfig
from fewbits.cli.folder import check_free, claim
from fewbits.errors import LocalError


def train(
    method: Annotated[str | None, typer.Option(help="Method; `fewbits methods` lists them. Default: dense.")] = None,
    settings: o.Settings = None,
    data: o.DataName = None,
    data_dir: o.DataDir = None,
    model: o.Model = None,
    clients: o.Clients = None,
    per_round: o.PerRound = None,
    split: o.Split = None,
    holdout: o.Holdout = None,
    rounds: o.Rounds = None,
    lr: o.Lr = None,
    momentum: o.Momentum = None,
    weight_decay: o.WeightDecay = None,
    batch_size: o.BatchSize = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    clip: o.Clip = None,
    seed: Annotated[int | None, typer.Option(help="Of everything: same seed, same bytes. Default: 0.")] = None,
    processes: o.Processes = None,
    device: o.Device = None,
    evaluate_every: o.EvaluateEvery = None,
    checkpoint_every: o.CheckpointEvery = None,
    keep_frames: o.KeepFrames = None,
    out: o.Out = None,
    resume: o.Resume = None,
    force: o.Force = False,
) -> None:
    """Train one model by one method; leaves model.safetensors, report.html, summary.json and logs in OUT.

    Ctrl-C finishes the round and says how to go on.
    """
    found = o.given(locals() | {"settings": pairs(settings) if settings else None})
    if resume is not None:
        o.check_resume(found, {"out": out, "force": force})
        config = _extended(RunConfig.read(resume), found)
        play.train(config, resume, build_task(config, load_data(config)), Console())
        return
    config, folder = RunConfig(**found), _folder(out)
    check_free(folder, force)
    task = build_task(config, load_data(config))  # before anything is removed
    claim(folder, force)
    play.train(config, folder, task, Console())


def compare(
    methods: Annotated[
        str | None, typer.Option(help="Methods, separated by commas; `fewbits methods` lists them.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas. Default: 0.")] = None,
    settings: o.MethodSettings = None,
    target_accuracy: Annotated[float | None, typer.Option(help="Report the bytes that it takes, such as 0.9.")] = None,
    data: o.DataName = None,
    data_dir: o.DataDir = None,
    model: o.Model = None,
    clients: o.Clients = None,
    per_round: o.PerRound = None,
    split: o.Split = None,
    holdout: o.Holdout = None,
    rounds: o.Rounds = None,
    lr: o.Lr = None,
    momentum: o.Momentum = None,
    weight_decay: o.WeightDecay = None,
    batch_size: o.BatchSize = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    clip: o.Clip = None,
    processes: o.Processes = None,
    device: o.Device = None,
    evaluate_every: o.EvaluateEvery = None,
    checkpoint_every: o.CheckpointEvery = None,
    keep_frames: o.KeepFrames = None,
    out: o.Out = None,
    resume: o.Resume = None,
    force: o.Force = False,
) -> None:
    """Train by several methods and seeds, all from the same initial model and partition, and compare at equal bytes.

    Every run has its own folder in OUT, so that a comparison that was stopped can be resumed.
    """
    found = o.given({name: value for name, value in locals().items() if name != "settings"})
    if resume is not None:
        o.check_resume(found, {"out": out, "force": force, "methods": methods, "seeds": seeds, "set": settings})
        earlier = Comparison.read(resume)
        comparison = replace(
            earlier, base=_extended(earlier.base, found), target_accuracy=target_accuracy or earlier.target_accuracy
        )
        folder = resume
    else:
        if methods is None:
            raise LocalError("compare: give --methods, such as --methods dense,topk,lbgm, or --resume")
        folder = _folder(out)
        names, found_seeds = tuple(o.words(methods)), o.numbers(seeds or "0", "seeds")
        comparison = Comparison(RunConfig(**found), names, found_seeds, tuple(settings or ()), target_accuracy)
        check_free(folder, force)
        loaded, (first, *others) = load_data(comparison.base), list(comparison.runs().values())[: len(names)]
        build_task(first, loaded)  # before anything is removed
        for config in others:  # they differ in their method alone
            build_model(config, loaded)
        claim(folder, force)
    title = f"{', '.join(comparison.methods)} on {comparison.base.data}"
    play.compare(comparison, folder, Console(), title, f"fewbits compare --resume {folder}")


def _folder(out: Path | None) -> Path:
    if out is None:
        raise LocalError("give --out, a new folder for what the run leaves, such as --out runs/first")
    return out


def _extended(config: RunConfig, found: dict[str, Any]) -> RunConfig:
    """The configuration of a run that is continued."""
    if found.get("rounds", config.rounds) < config.rounds:
        raise LocalError(f"--rounds can extend a run, not shorten it: it has {config.rounds}; got {found['rounds']}")
    return replace(config, **found)
