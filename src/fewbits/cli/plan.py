"""`fewbits plan`: the bytes and the seconds of a run, estimated before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fewbits.analysis.forecast import Forecast, Link, forecast
from fewbits.checks import check_whole
from fewbits.cli import options as o
from fewbits.cli.comparison import check_each_once, distribute
from fewbits.cli.config import RunConfig
from fewbits.cli.named_object import is_named_object, model_function
from fewbits.cli.plan_model import plan_model
from fewbits.cli.plan_ranks import EVERY, RANKS, check_some, plan_ranks
from fewbits.cli.plan_ranks import NAMES as OF_RANKS
from fewbits.cli.screen import screen
from fewbits.data import check_split, data_info
from fewbits.engines.common.initial_model import takes_key
from fewbits.errors import LocalError
from fewbits.files import check_file, write_atomically
from fewbits.json_text import json_text
from fewbits.learn.intrinsic_space import MODES
from fewbits.methods import METHODS, build
from fewbits.methods.catalogue import options
from fewbits.methods.text import MethodText, Options, read_all
from fewbits.models.build import model_entry
from fewbits.replicas.noloco import RANK_METHODS
from fewbits.replicas.noloco import options as rank_options
from fewbits.report.forecast import figures, terminal
from fewbits.rng import Key

DEFAULT = "dense,fedpaq,topk,lbgm,intrinsic,fedpara"
# A method with such a layer has a line for each of these values, unless its option is set.
CASES = {"intrinsic": ("mode", MODES), "fedpara": ("gamma", ("0.1", "0.3", "0.5"))}
NOTES = """
A turn is one client's part in one round: it receives all frames that it missed, then sends one. Byte counts are
lengths of frames that were encoded, with 16 bytes of header each. "any update": exact for all data. "random update":
measured on Gaussian updates; real ones differ. "bound": no run of this method is beyond it. Seconds: the transfers of a
round, all clients at once, each with a line of {up:g} Mbit/s up and {down:g} down, without latency and training. Server
keeps: on disk, for each client that has taken part.
"""
DEFAULTS: dict[str, Any] = RunConfig().asdict() | {"uplink_mbps": 10.0, "downlink_mbps": 50.0}
NAMES = ("method", "settings", "model", "data", "params", "shapes", "clients", "per_round", "split", "rounds", "seed")
SPECIAL = {
    "method": o.Option(
        f"Methods, separated by commas or given again; or all. Default: {DEFAULT.replace(',', ', ')}.",
        None,
        list[str],
        ("--method",),
    ),
    "settings": o.OF_SEVERAL,
    "data": o.Option(
        "Data set whose examples the model takes; it is not loaded. Default: the model's.", None, str, ("--data",)
    ),
    "split": o.Option("The run's split; bytes do not depend on it, but one that no data can have is refused.", None),
    "params": o.Option("Instead of a model: a number of parameters.", None, int),
    "shapes": o.Option('Instead of a model: a JSON file of {"layer.weight": [rows, columns], ...}.', None, Path),
    "uplink_mbps": o.Option("A client's line to the server, Mbit/s. Default: 10.", None, float),
    "downlink_mbps": o.Option("A client's line from the server, Mbit/s. Default: 50.", None, float),
    "bandwidth": o.Option(
        "Plan for ranks of torch.distributed instead, each with such a line: 100Mbit; no clients, no server.", None, str
    ),
    "latency": o.Option("With --bandwidth: one way, such as 50ms. Default: 0ms.", None, str),
    "compute": o.Option("With --bandwidth: time of one training step, such as 1.2s. Default: 1s.", None, str),
    "ranks": o.Option(f"With --bandwidth: how many ranks there are. Default: {RANKS}.", None, int),
    "ranks_per_core": o.Option("With --bandwidth: how many ranks share a core. Default: 1.", None, float),
    "every": o.Option(f"With --bandwidth: steps between two exchanges. Default: {EVERY}.", None, str, (), "H,H,..."),
    "json": o.Option("Write all figures to this file.", None, Path),
}


@dataclass(frozen=True)
class Sizes:
    """What all lines of a plan have in common."""

    clients: int
    per_round: int | None
    rounds: int
    seed: int
    seeded: bool  # the initial model comes from the key, and is not sent

    def forecast(self, make: Callable[[], nn.Module], method: MethodText, case: str = "") -> list[Forecast]:
        """The lines of one method."""
        built = build(method.name, method.settings)
        return forecast(make, built, self.clients, self.per_round, self.rounds, Key(self.seed), case, self.seeded)


@o.command((*NAMES, "uplink_mbps", "downlink_mbps", *OF_RANKS, "json"), SPECIAL, panels=False)
def plan(given: o.Given) -> None:
    """Estimate what each method would send: bytes per client and round, seconds on a line, disk, and the run's total.

    Nothing is trained and no data is read: frames are encoded from random updates of the model's shapes.
    """
    o.check_pairs(given, [(one, other) for one in ("params", "shapes") for other in ("model", "data")])
    _check_ranks(given)
    found = DEFAULTS | {name: value for name, value in given.items() if value is not None}
    for name in ("clients", "rounds", "per_round", "params"):
        if found.get(name) is not None:
            check_whole(name, found[name], 1)
    if (found["per_round"] or 0) > found["clients"]:
        raise LocalError(f"per_round is {found['per_round']}, but there are {found['clients']} clients")
    link = Link(found["uplink_mbps"], found["downlink_mbps"])
    ranks = given["bandwidth"] is not None
    options_of, names = (rank_options, [*METHODS, *RANK_METHODS]) if ranks else (options, [*METHODS])
    methods = _methods(given["method"], names, options_of)
    if given["json"] is not None:
        check_file(given["json"])
    if given["split"] is not None and is_named_object(found["model"]):
        raise LocalError(f"plan: --split has no meaning with --model {found['model']}: its data are not known")
    if given["split"] is not None:
        known = data_info(given["data"] or model_entry(found["model"]).data)
        check_split(given["split"], found["clients"], known.classes)
    params, shapes = given["params"], given["shapes"]
    make, what = plan_model(found["model"], given["data"], params, shapes, Key(found["seed"]))
    named = is_named_object(found["model"])
    seeded = params is None and shapes is None and (not named or takes_key(model_function(found["model"])))
    sizes = Sizes(found["clients"], given["per_round"], found["rounds"], found["seed"], seeded)
    settings = distribute(given["settings"] or (), methods, options_of)
    if ranks:
        plan_ranks(given, methods, settings, make, what)
        return
    lines, refused = _lines(make, methods, settings, sizes)
    check_some(lines, refused)
    _show(what, sizes, lines, refused, link)
    if given["json"] is not None:
        _write(given["json"], what, sizes, lines, refused, link)


def _check_ranks(given: o.Given) -> None:
    """LocalError where options for ranks and for clients meet."""
    ranks = [name for name in OF_RANKS if given[name] is not None]
    if ranks and given["bandwidth"] is None:
        name = ranks[0].replace("_", "-")
        raise LocalError(f"--{name} is for ranks of torch.distributed; give --bandwidth, such as 100Mbit, with it")
    clients = [name for name in ("clients", "per_round", "rounds", "uplink_mbps", "downlink_mbps") if given[name]]
    if ranks and clients:
        raise LocalError(f"--bandwidth plans for ranks, and --{clients[0].replace('_', '-')} is for clients; give one")


def _show(what: str, sizes: Sizes, lines: Sequence[Forecast], refused: Sequence[str], link: Link) -> None:
    console = screen()
    sampled = f"{sizes.per_round or sizes.clients:,} of {sizes.clients:,} clients in each of {sizes.rounds:,} rounds"
    console.print(f"{what}; {sampled}", markup=False, highlight=False, soft_wrap=True)
    console.print(terminal(lines, link, console.width))
    notes = " ".join(NOTES.split()).format(up=link.up_mbps, down=link.down_mbps)
    console.print(notes, style="dim", highlight=False)
    for sentence in refused:
        console.print(f"not planned: {sentence}", markup=False, style="yellow", soft_wrap=True)


def _write(path: Path, what: str, sizes: Sizes, lines: Sequence[Forecast], refused: Sequence[str], link: Link) -> None:
    """All figures as JSON."""
    found: dict[str, object] = {"model": what, "clients": sizes.clients, "per_round": sizes.per_round or sizes.clients}
    found |= {"rounds": sizes.rounds, "seed": sizes.seed}
    found |= {"uplink_mbps": link.up_mbps, "downlink_mbps": link.down_mbps, "not_planned": refused}
    found |= {"methods": [figures(line, link) for line in lines]}
    write_atomically(path, (json_text(found, indent=2) + "\n").encode())


def _lines(
    make: Callable[[], nn.Module],
    methods: Sequence[MethodText],
    given: Mapping[str, dict[str, str]],
    sizes: Sizes,
) -> tuple[list[Forecast], list[str]]:
    """The lines of all methods, compared with the dense run; and a sentence for each method that does not fit."""
    (dense,) = sizes.forecast(make, MethodText("dense"))
    known = {("dense", ""): [dense]}
    lines: list[Forecast] = []
    refused: list[str] = []
    for name, case, settings in ((one.name, *each) for one in methods for each in _cases(one.name, given[one.label])):
        try:
            found = known.get((name, case)) or sizes.forecast(make, MethodText(name, settings), case)
        except LocalError as error:
            refused.append(f"{name}{f', {case}' if case else ''}: {error}")
        else:
            lines += [line.against(dense) for line in found]
    return lines, refused


def _methods(given: Sequence[str] | None, names: Sequence[str], known: Options) -> list[MethodText]:
    """The methods, each once; `names`: what "all" stands for. LocalError names one that there is not."""
    text = ",".join(given or [DEFAULT])
    methods = [MethodText(name) for name in names] if text == "all" else read_all(text, known)
    check_each_once("plan", "methods", [method.label for method in methods])
    for method in methods:
        known(method.name)
    return methods


def _cases(name: str, given: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(what to call it, settings) of each line of a method."""
    option, values = next((case for layer, case in CASES.items() if layer in name.split("+")), ("", ()))
    if not option or option in given:
        yield ", ".join(f"{key}={value}" for key, value in given.items()), given
        return
    for value in values:
        settings = {option: value} | given
        yield ", ".join(f"{key}={value}" for key, value in settings.items()), settings
