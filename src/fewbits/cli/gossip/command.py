"""`fewbits gossip`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fewbits.cli import options as o
from fewbits.cli.assemble import load_data
from fewbits.cli.folder import check_free, claim
from fewbits.cli.gossip import nodes as each
from fewbits.cli.gossip import play
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.engines.distributed import ProcessInfo, World
from fewbits.errors import LocalError
from fewbits.methods.gossip import GOSSIP
from fewbits.topology import NAMED

DEFAULT = GossipConfig()
NETWORK = "Network"


def _option(help: str, panel: str, name: str, *flags: str) -> Any:
    help = f"{help} Default: {getattr(DEFAULT, name)}."
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=False)


def gossip(
    methods: Annotated[
        str | None,
        typer.Option("--methods", "--method", help=f"One or more of {', '.join(GOSSIP)}, separated by commas."),
    ] = None,
    settings: Annotated[list[str] | None, o.method_settings(", such as mu=1e-5 or gamma=0.5")] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", "--seed", help="Seeds, separated by commas. Default: 0.")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Report the bytes to this accuracy, such as 0.9.")
    ] = None,
    nodes: Annotated[int | None, _option("Nodes.", NETWORK, "clients")] = None,
    topology: Annotated[
        str | None,
        _option(
            f"{', '.join(NAMED)} (random_regular:DEGREE, erdos_renyi:SHARE) or file:PATH with two node numbers a line.",
            NETWORK,
            "topology",
        ),
    ] = None,
    weights: Annotated[str | None, _option("metropolis or uniform.", NETWORK, "weights")] = None,
    inactive: Annotated[float | None, _option("Share of inactive nodes in a round.", NETWORK, "inactive")] = None,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Map nodes' vectors from a file.", rich_help_panel=NETWORK)
    ] = False,
    data: o.DataName = None,
    data_dir: o.DataDir = None,
    model: o.Model = None,
    split: o.Split = None,
    rounds: Annotated[int | None, _option("Rounds of communication.", o.TASK, "rounds")] = None,
    lr: Annotated[float | None, _option("Learning rate of a node's SGD.", o.LOCAL, "lr")] = None,
    momentum: o.Momentum = None,
    weight_decay: o.WeightDecay = None,
    batch_size: Annotated[int | None, _option("Examples per step; 0: all.", o.LOCAL, "batch_size")] = None,
    steps: Annotated[int | None, _option("Local steps per round.", o.LOCAL, "steps")] = None,
    clip: o.Clip = None,
    processes: o.Processes = None,
    evaluate_every: Annotated[int | None, _option("Rounds between evaluations.", o.RUN, "evaluate_every")] = None,
    checkpoint_every: o.CheckpointEvery = None,
    out: o.Out = None,
    resume: o.Resume = None,
    force: o.Force = False,
) -> None:
    """Train without a server: the nodes of a graph send compressed models to their neighbours.

    The command compares several methods with the same initial model, partition and graph. Each run has a folder in OUT.
    Under `torchrun --nproc-per-node NODES -m fewbits gossip ...`, every node is a process; frames and models are the
    same.
    """
    parameters = {name: value for name, value in locals().items() if name != "settings"}
    found = o.given(parameters | {"clients": nodes, "on_disk": on_disk or None}, GossipConfig)
    text = {"methods": methods, "seeds": seeds, "set": settings}
    if ProcessInfo.given():
        with World() as world:
            comparison, folder = _comparison(found, text, target_accuracy, resume, out, force)
            each.compare(comparison, folder, resume is None, force, world)
        return
    comparison, folder = _comparison(found, text, target_accuracy, resume, out, force)
    if resume is None:
        check_free(folder, force)
        first = next(iter(comparison.runs().values()))
        play.build_task(first, load_data(comparison.base))  # before anything is removed
        claim(folder, force)
    play.compare(comparison, folder, Console())


def _comparison(
    found: dict[str, Any],
    text: dict[str, Any],
    target_accuracy: float | None,
    resume: Path | None,
    out: Path | None,
    force: bool,
) -> tuple[GossipComparison, Path]:
    """The comparison and its folder."""
    if resume is None:
        names = tuple(o.words(text["methods"] or DEFAULT.method))
        numbers, settings = o.numbers(text["seeds"] or "0", "seeds"), tuple(text["set"] or ())
        return GossipComparison(GossipConfig(**found), names, numbers, settings, target_accuracy), _folder(out)
    o.check_resume(found, {"out": out, "force": force} | text)
    earlier = GossipComparison.read(resume)
    if found.get("rounds", earlier.base.rounds) < earlier.base.rounds:
        raise LocalError(f"--rounds can extend a run, not shorten it: it has {earlier.base.rounds}")
    target = target_accuracy or earlier.target_accuracy
    return replace(earlier, base=replace(earlier.base, **found), target_accuracy=target), resume


def _folder(out: Path | None) -> Path:
    if out is None:
        raise LocalError("give --out, a new folder for the results, such as --out runs/gossip")
    return out
