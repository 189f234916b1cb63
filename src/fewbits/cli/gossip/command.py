"""`fewbits gossip`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fewbits.cli import options as o
from fewbits.cli.commands import continued, wanted
from fewbits.cli.config import check_listed
from fewbits.cli.folder import check_free, claim, take_up
from fewbits.cli.gossip import nodes as each
from fewbits.cli.gossip import play
from fewbits.cli.gossip.config import GossipComparison, GossipConfig
from fewbits.cli.prepared import listed, load_data
from fewbits.cli.screen import screen
from fewbits.engines.distributed import ProcessInfo, World
from fewbits.methods.gossip import GOSSIP
from fewbits.topology import NAMED

DEFAULTS = GossipConfig()
NETWORK = "Network"
FORMS = f"{', '.join(NAMED)} (random_regular:DEGREE, erdos_renyi:SHARE) or file:PATH with two node numbers a line."
SPECIAL = {
    "methods": o.Option(
        f"One or more of {', '.join(GOSSIP)}, separated by commas, such as malcom@mu=1e-5.",
        *(None, str, ("--methods", "--method")),
    ),
    "settings": o.Option(
        "An option of one method, or of all that have it, such as mu=1e-5 or gamma=0.5; may be repeated.",
        *(None, list[str], ("--set",), "[METHOD.]OPTION=VALUE"),
    ),
    "seeds": o.Option("Seeds, separated by commas. Default: 0.", None, str, ("--seeds", "--seed")),
    "nodes": o.Option(f"Number of nodes. Default: {DEFAULTS.clients}.", NETWORK, int),
    "topology": o.Option(FORMS, NETWORK),
    "weights": o.Option("metropolis or uniform.", NETWORK),
    "inactive": o.Option("Share of inactive nodes in a round.", NETWORK),
    "on_disk": o.Option("Map nodes' vectors from a file.", NETWORK, bool, ("--on-disk",), default=False),
    "no_budget": o.Option("Refused: a run without a server takes no budget.", None, str, ("--budget",), hidden=True),
    "data": o.Option("Data set; `fewbits data` lists them. A table: FILE.csv@label=COLUMN.", o.TASK),
    "model": o.Option("Model; `fewbits models` lists them.", o.TASK),
    "lr": o.Option("Learning rate of a node's SGD.", o.LOCAL),
    "momentum": o.Option("Momentum of a node's SGD; a method has its own (--set momentum=0.9).", o.LOCAL),
    "weight_decay": o.Option("Weight decay of a node's SGD.", o.LOCAL),
    "batch_size": o.Option("Examples per step; 0: all.", o.LOCAL),
    "steps": o.Option("Local steps per round.", o.LOCAL),
}
NAMES = (
    *("methods", "settings", "seeds", "target_accuracy", "nodes", "topology", "weights", "inactive", "on_disk"),
    *("data", "data_dir", "model", "split", "rounds", "lr", "momentum", "weight_decay", "batch_size", "steps", "clip"),
    *("processes", "evaluate_every", "checkpoint_every", *o.FOLDER, "no_budget"),
)


@o.command(NAMES, SPECIAL, DEFAULTS)
def gossip(given: o.Given) -> None:
    """Train without a server: the nodes of a graph send compressed models to their neighbours.

    The command compares several methods with the same initial model, partition and graph. Each run has a folder in OUT.
    Under `torchrun --nproc-per-node NODES -m fewbits gossip ...`, every node is a process; frames and models are the
    same.
    """
    if ProcessInfo.given():
        with World() as world:
            comparison, folder = _comparison(given)
            each.compare(comparison, folder, given["resume"] is None, given["force"], world)
        return
    comparison, folder = _comparison(given)
    new = given["resume"] is None
    if new:
        check_free(folder, given["force"])
    else:
        take_up(folder, comparison)
    compared = play.Compared(comparison, listed(load_data(comparison.base)))
    if new:
        compared.check()  # a mistake is found before anything is removed
        claim(folder, given["force"], comparison)
    play.compare(compared, folder, screen())


def _comparison(given: o.Given) -> tuple[GossipComparison, Path]:
    """The comparison and its folder."""
    if given["no_budget"] is not None:
        replace(DEFAULTS, budget=given["no_budget"])  # says why not
    if given["resume"] is not None:
        o.check_resume(given)
        return continued(GossipComparison.read(given["resume"]), given), given["resume"]
    check_listed("gossip", {name: given[name] for name in ("data", "model")})
    found = {**given, "clients": given["nodes"], "on_disk": given["on_disk"] or None}
    return wanted(GossipComparison, found, given["methods"] or DEFAULTS.method), o.folder_of(given, "runs/gossip")
