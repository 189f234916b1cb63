"""The options of the commands, each declared once; a command's signature is made from their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fewbits.cli.config import RunConfig, replaced
from fewbits.data.table import is_file
from fewbits.errors import LocalError
from fewbits.methods.text import pairs, read

Given = Mapping[str, Any]  # a command's options by name; None: not given
RESUMABLE = ("rounds", "budget", "processes", "checkpoint_every")  # these may differ when a run is continued
BESIDE = ("resume", "log", "live", "target_accuracy", "at")  # these belong to the call, and not to the run
TASK, LOCAL, RUN = "Task", "Local training", "Run"


@dataclass(frozen=True)
class Option:
    """One option; its help ends with the default of the config's field of the same name, if it is that field."""

    help: str
    panel: str | None = None
    kind: Any = None  # its type; None: it is the config's field
    flags: tuple[str, ...] = ()  # such as ("--set",); (): its name
    metavar: str | None = None
    default: Any = None  # False for a switch
    hidden: bool = False  # from the help: one that is there to be refused in a sentence


OPTIONS: Mapping[str, Option] = {
    "method": Option(
        "Method, such as topk@fraction=0.01,bits=8; `fewbits methods` lists them; auto: the best by --budget."
    ),
    "rehearsal": Option(
        "With --method auto: rounds of each candidate's first rehearsal. Default: 8.", None, int, (), "N"
    ),
    "methods": Option(
        "Methods, separated by commas, such as dense,topk; each may have a label and options: a=topk@bits=8.",
        kind=str,
    ),
    "seeds": Option("Seeds, separated by commas. Default: 0 alone.", kind=str),
    "settings": Option("An option of the method; may be repeated.", None, list[str], ("--set",), "OPTION=VALUE"),
    "at": Option(
        "Show the accuracy at these bytes of a run, both directions, such as 1MB,10MB.", None, str, (), "SIZES"
    ),
    "target_accuracy": Option("Report the bytes to this accuracy, such as 0.9.", kind=float),
    "data": Option(
        "Data set; `fewbits data` lists them. A table: FILE.csv@label=COLUMN, or @target=COLUMN for numbers. Or "
        "module:function, which returns (clients, test).",
        TASK,
    ),
    "data_dir": Option("Folder with the data set's files.", TASK, Path),
    "model": Option("Model; `fewbits models` lists them. Or module:function, which makes one.", TASK),
    "loss": Option(
        "mse, mae, huber, bce, or module:name of a function of (output, y); by default cross-entropy, the model's own, "
        "or for numbers mse.",
        TASK,
    ),
    "metric": Option(
        "f1, r2, mse, mae, or module:name of a function of (output, y), measured on the test set; for numbers r2 by "
        "default.",
        TASK,
    ),
    "clients": Option("Number of clients.", TASK),
    "per_round": Option("Clients sampled in each round; all when not given.", TASK),
    "split": Option("iid, dirichlet:A, classes:K or natural.", TASK),
    "holdout": Option(
        "Share of a client's examples for testing its personal model. Default: 0.2 for pfedpara, fedper, local.", TASK
    ),
    "rounds": Option("Rounds of communication; with --budget the most, and without limit when not given.", TASK),
    "budget": Option(
        "End the run by its bytes in both directions: 2MB, or 20kB/client (mean of all clients).", TASK, metavar="SIZE"
    ),
    "optimizer": Option("In place of SGD: adamw@lr=0.001, or module:function of the parameters.", LOCAL),
    "lr": Option("Learning rate of the clients' SGD.", LOCAL),
    "falling": Option("Rounds over which the learning rate falls, to a tenth by default.", LOCAL, metavar="ROUNDS"),
    "end_factor": Option("The part of a falling learning rate that is left at its end.", LOCAL),
    "momentum": Option("Momentum of the clients' SGD (the server's: --set momentum=0.9).", LOCAL),
    "weight_decay": Option("Weight decay of the clients' SGD.", LOCAL),
    "batch_size": Option("Examples per step; 0: all of the client's.", LOCAL),
    "epochs": Option("Passes over a client's examples per round.", LOCAL),
    "steps": Option("Exactly so many steps per round, instead of epochs.", LOCAL),
    "clip": Option("Largest 2-norm of a gradient.", LOCAL),
    "seed": Option("Of all randomness: same seed, same bytes.", RUN),
    "processes": Option("Worker processes; results do not depend on it.", RUN),
    "device": Option("Where clients train; another than cpu needs --processes 1.", RUN),
    "evaluate_every": Option("Rounds between evaluations.", RUN),
    "checkpoint_every": Option("Rounds between checkpoints.", RUN),
    "keep_frames": Option("Save the first N messages in OUT/frames, for inspect.", RUN),
    "log": Option(
        "Send every round's figures to tensorboard[:FOLDER], wandb[:PROJECT] or mlflow[:EXPERIMENT]; may be repeated.",
        *(RUN, list[str], ("--log",), "TRACKER"),
    ),
    "live": Option(
        "Write OUT/live.html, a page to watch while the run goes on.", RUN, bool, ("--live",), default=False
    ),
    "out": Option("Folder for all files of the run; must be new or empty.", RUN, Path),
    "resume": Option(
        "Continue the run in this folder with its settings (--rounds or --budget may extend it).", RUN, Path
    ),
    "force": Option("Replace the run that OUT holds.", RUN, bool, ("--force",), default=False),
}
OF_SEVERAL = Option(  # `settings` of a command that takes several methods
    "An option of one method, or of all that have it; may be repeated.",
    *(None, list[str], ("--set",), "[METHOD.]OPTION=VALUE"),
)
REHEARSAL = Option("Rounds of the first rehearsal of each candidate. Default: 8.", None, int, (), "N")
DATA = ("data", "data_dir", "model", "clients", "per_round", "split", "holdout", "rounds", "budget")
USERS = ("loss", "metric", "optimizer")  # functions of the user's, beside data and model
TRAINING = ("lr", "falling", "end_factor", "momentum", "weight_decay", "batch_size", "epochs", "steps", "clip")
PLAYING = ("processes", "device", "evaluate_every", "checkpoint_every", "keep_frames")
FOLDER = ("out", "resume", "force")


def command(
    names: Sequence[str],
    special: Mapping[str, Option] = {},
    defaults: RunConfig | None = None,
    panels: bool = True,
) -> Callable[[Callable[[Given], None]], Callable[..., None]]:
    """Make a function of a mapping a command with these options.

    Args:
        names: the options in their order in the help.
        special: options of this command that differ from `OPTIONS`, by name.
        defaults: the configuration whose values the help shows; None: RunConfig().
        panels: whether the help shows groups of options.
    """
    defaults = defaults or RunConfig()
    chosen = {name: special.get(name) or OPTIONS[name] for name in names}
    if not panels:
        chosen = {name: replace(option, panel=None) for name, option in chosen.items()}
    parameters = [_parameter(name, option, defaults) for name, option in chosen.items()]

    def made(run: Callable[[Given], None]) -> Callable[..., None]:
        def call(**given: Any) -> None:
            run(given)

        call.__name__, call.__doc__ = run.__name__, run.__doc__
        call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] - for typer
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return made


def _parameter(name: str, option: Option, defaults: RunConfig) -> inspect.Parameter:
    shown = getattr(defaults, name) if option.kind is None else None
    info = typer.Option(
        *option.flags,
        help=option.help if shown is None else f"{option.help} Default: {shown}.",
        rich_help_panel=option.panel,
        show_default=False,
        metavar=option.metavar,
        hidden=option.hidden,
    )
    kind = option.kind or get_type_hints(type(defaults))[name]
    annotation = Annotated[kind if option.default is not None else kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)


def check_pairs(given: Given, pairs: Sequence[tuple[str, str]] = (("steps", "epochs"),)) -> None:
    """LocalError when both options of a pair are given, of which one replaces the other."""
    for one, other in pairs:
        if given.get(one) is not None and given.get(other) is not None:
            raise LocalError(f"give {_flag(one)} or {_flag(other)}, not both: the first replaces the second")


def configured(given: Given, kind: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """Those options that are fields of a configuration of this kind and were given; a method's text is read."""
    check_pairs(given)
    found = {name: value for name, value in given.items() if name in kind.__dataclass_fields__ and value is not None}
    for name, by in replaced(found).items():
        if name in found:
            raise LocalError(f"{_flag(name)} has no meaning with {_flag(by)} {found[by]}, which says it itself")
    if "data_dir" in found:
        found["data_dir"] = str(found["data_dir"].resolve())  # a resume may come from another folder
    elif is_file(found.get("data", "")):
        found["data_dir"] = str(Path.cwd())
    if "method" in found:
        method = read(found["method"])
        found |= {"method": method.name, "settings": {**method.settings, **pairs(found.get("settings", ()))}}
    elif "settings" in found:
        found["settings"] = pairs(found["settings"])
    return found


def ended_by(found: dict[str, Any]) -> dict[str, Any]:
    """The options of a new run: with a budget and without rounds, the budget alone ends it."""
    return found | {"rounds": None} if "budget" in found and "rounds" not in found else found


def check_resume(given: Given) -> None:
    """LocalError when an option beside --resume would have no effect."""
    odd = [name for name, value in given.items() if value and name not in (*RESUMABLE, *BESIDE)]
    if odd:
        named = ", ".join(map(_flag, odd))
        may = ", ".join(map(_flag, sorted(RESUMABLE)))
        raise LocalError(f"--resume continues a run with its settings: {named} cannot be changed; only {may} can")


def _flag(name: str) -> str:
    return (OPTIONS[name].flags or ("--" + name.replace("_", "-"),))[0] if name in OPTIONS else "--" + name


def folder_of(given: Given, example: str) -> Path:
    """The folder that --out names; LocalError when there is none."""
    if given["out"] is None:
        raise LocalError(f"give --out, a new folder for all files of the run, such as --out {example}")
    return given["out"]


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    >>> numbers("0,1,2", "seeds")
    (0, 1, 2)
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise LocalError(f"{what} must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from None
