"""The options that several commands share; one that is not given is None, and RunConfig has the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.config import RunConfig
from fewbits.errors import LocalError

DEFAULT = RunConfig()
RESUMABLE = {"rounds", "processes", "checkpoint_every"}  # may differ when a run is continued
TASK, LOCAL, RUN = "Task", "Local training", "Run"


def _option(help: str, panel: str, name: str = "", *flags: str, **more: Any) -> Any:
    default = getattr(DEFAULT, name) if name else None
    help = help if default is None else f"{help} Default: {default}."
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=False, **more)


DataName = Annotated[str | None, _option("Data set; `fewbits data` lists them.", TASK, "data")]
DataDir = Annotated[Path | None, _option("Folder with the data set's files.", TASK)]
Model = Annotated[str | None, _option("Model; `fewbits models` lists them.", TASK, "model")]
Clients = Annotated[int | None, _option("How many clients the data is divided among.", TASK, "clients")]
PerRound = Annotated[int | None, _option("Clients sampled in each round; all when not given.", TASK)]
Split = Annotated[str | None, _option("iid, dirichlet:A, classes:K or natural.", TASK, "split")]
Holdout = Annotated[
    float | None,
    _option("Share of a client's examples to judge its own model on. Default: 0.2 for pfedpara, fedper, local.", TASK),
]
Rounds = Annotated[int | None, _option("Rounds of communication.", TASK, "rounds")]
Lr = Annotated[float | None, _option("Learning rate of the clients' SGD.", LOCAL, "lr")]
Momentum = Annotated[
    float | None, _option("Momentum of clients' SGD (the server's: --set momentum=0.9).", LOCAL, "momentum")
]
WeightDecay = Annotated[float | None, _option("Weight decay of the clients' SGD.", LOCAL, "weight_decay")]
BatchSize = Annotated[int | None, _option("Examples per step; 0: all of the client's.", LOCAL, "batch_size")]
Epochs = Annotated[int | None, _option("Passes over a client's examples per round.", LOCAL, "epochs")]
Steps = Annotated[int | None, _option("Exactly so many steps per round, instead of epochs.", LOCAL)]
Clip = Annotated[float | None, _option("Largest 2-norm of a gradient.", LOCAL)]
Processes = Annotated[int | None, _option("Worker processes; results do not depend on it.", RUN, "processes")]
Device = Annotated[str | None, _option("Where clients train; another than cpu takes --processes 1.", RUN, "device")]
EvaluateEvery = Annotated[int | None, _option("Rounds between evaluations.", RUN, "evaluate_every")]
CheckpointEvery = Annotated[int | None, _option("Rounds between checkpoints.", RUN, "checkpoint_every")]
KeepFrames = Annotated[int | None, _option("Save the first N messages in OUT/frames, for inspect.", RUN, "keep_frames")]
Out = Annotated[Path | None, _option("Folder for everything the run leaves; must be new or empty.", RUN)]
Resume = Annotated[
    Path | None, _option("Continue the run in this folder; all else is read there (--rounds may extend it).", RUN)
]
Force = Annotated[bool, typer.Option("--force", help="Replace the run that OUT holds.", rich_help_panel=RUN)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the method; may be repeated.", show_default=False),
]


def method_settings(example: str = "") -> Any:
    """The option --set of commands that take several methods."""
    help = f"An option of one method, or of all that have it{example}; may be repeated."
    return typer.Option("--set", metavar="[METHOD.]OPTION=VALUE", help=help, show_default=False)


MethodSettings = Annotated[list[str] | None, method_settings()]


def given(parameters: Mapping[str, Any], kind: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """Those of a command's parameters that stand in a configuration of this kind and were given."""
    known = kind.__dataclass_fields__
    found = {name: value for name, value in parameters.items() if name in known and value is not None}
    if "data_dir" in found:
        found["data_dir"] = str(found["data_dir"].resolve())  # a resume may come from another folder
    return found


def check_resume(found: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """LocalError when something was given beside --resume that would have no effect."""
    odd = [name for name in found if name not in RESUMABLE] + [name for name, value in others.items() if value]
    if odd:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        may = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(RESUMABLE))
        raise LocalError(f"--resume continues a run as it was begun: {flags} cannot be changed; only {may} can")


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    >>> numbers("0,1,2", "seeds")
    (0, 1, 2)
    """
    try:
        return tuple(int(part) for part in words(text))
    except ValueError:
        raise LocalError(f"{what} must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from None


def words(text: str) -> Sequence[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
