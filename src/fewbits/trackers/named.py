"""The observers of a call: trackers by name, and observers as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fewbits.choices import unknown
from fewbits.errors import LocalError, words
from fewbits.trackers.live_page import LivePage
from fewbits.trackers.ml_flow import MLflow
from fewbits.trackers.observer import Observer
from fewbits.trackers.tensorboard import TensorBoard
from fewbits.trackers.weights_and_biases import WeightsAndBiases

# By name; the text behind a colon is a folder, a project or an experiment.
TRACKERS: Mapping[str, Callable[[str], Observer]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "live": LivePage,
}
FILES = ("tensorboard", "live")  # these write into the folder of the run
FORM = "log is a list of names, such as ['tensorboard'], or of observers of class fb.simulation.Observer"


def observers(log: object, out: Path | str | None) -> list[Observer]:
    """The observers that `log` names.

    Args:
        log: names such as "tensorboard" or "wandb:my-project", and observers.
        out: the folder of the run or the comparison; files of trackers go there unless they have a folder of their own.

    Raises:
        LocalError: it is no such list, a name is unknown, a tracker is not installed, or it has no folder.
    """
    if isinstance(log, str | Mapping) or not isinstance(log, Iterable):
        raise LocalError(f"{FORM}; got {log!r}")
    return [_observer(one, out) for one in log]


def _observer(one: object, out: Path | str | None) -> Observer:
    if isinstance(one, Observer):
        return one
    if not isinstance(one, str):
        raise LocalError(f"{FORM}; got {one!r} in it")
    name, _, argument = one.partition(":")
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if name in FILES and not argument and out is None:
        raise LocalError(f"log: {name} writes files; give out=..., or a folder: log=['{name}:FOLDER']")
    if name == "live":
        argument = argument or str(out)
    try:
        return TRACKERS[name](argument)
    except ImportError as error:
        raise LocalError(
            f"log: {name} is not installed ({words(error)}); pip install 'fewbits[trackers]', or the package of {name} "
            "alone"
        ) from None
