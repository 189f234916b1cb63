"""RunConfig: the settings of a run from the command line, as its folder's config.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, get_origin, get_type_hints

from fewbits.checks import check_number, check_whole
from fewbits.cli.named_object import is_named_object
from fewbits.cli.objective_text import loss_function, metric_function
from fewbits.cli.optimizer_text import optimizer
from fewbits.data.load import check_name
from fewbits.data.partition import check_split
from fewbits.engines.common.run_files import CALL, left_nothing, of_a_call
from fewbits.engines.common.schedule import NO_CAP
from fewbits.engines.simulation import Schedule
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.learn import LocalSGD, LocalTraining, Method
from fewbits.learn.local import END
from fewbits.learn.local_report import Loss
from fewbits.learn.metrics import Metric
from fewbits.methods import build
from fewbits.methods.catalogue import options
from fewbits.methods.text import MethodText
from fewbits.models.build import model_entry
from fewbits.sizes import read_budget

NAME = "config.json"
HOLDOUT = 0.2  # for methods with personal models
REPLACED = {  # options that have no meaning beside one of the user's own
    "data": ("data_dir", "clients", "split"),
    "optimizer": ("lr", "falling", "end_factor", "momentum", "weight_decay"),
}


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. Names and numbers are checked here, the split by the data, the options by the method."""

    data: str = "digits"  # `fewbits data` lists them; a table, or module:function, which gives (clients, test)
    data_dir: str | None = None  # folder with the data set's files; None: the default source
    model: str = "mlp"  # `fewbits models` lists them; or module:function, which makes one
    loss: str | None = None  # mse, or module:name of (output, y); None: what the data need, or the model's own
    metric: str | None = None  # r2, or module:name of (output, y), measured beside the accuracy
    optimizer: str | None = None  # such as adamw@lr=0.001, or module:function of the parameters; None: SGD
    clients: int = 20
    per_round: int | None = None  # clients sampled in each round; None: all
    split: str = "iid"  # iid, dirichlet:A, classes:K or natural
    holdout: float | None = None  # share of a client's rows for testing its personal model; None: 0.2 if it has one
    method: str = "dense"  # `fewbits methods` lists them
    settings: Mapping[str, str] = field(default_factory=dict)  # the method's options, as text
    label: str = ""  # what tables call the method; "": its text
    chosen: str | None = None  # why, by --method auto; None: it was given
    instead: Mapping[str, str] = field(default_factory=dict)  # the same when a run by that choice diverges
    rounds: int | None = 50  # None: the budget alone ends the run
    budget: str | None = None  # most bytes in both directions: SIZE, or SIZE/client; None: no limit
    seed: int = 0  # of all randomness: partition, initial model, sampling, batches, dither
    lr: float = 0.1  # of the clients' SGD
    falling: int | None = None  # rounds over which lr falls; None: it is constant
    end_factor: float = END  # the part of lr that is left after them
    momentum: float = 0.0  # of the clients' SGD, from zero in every round
    weight_decay: float = 0.0
    batch_size: int = 10  # examples; 0: all of the client's
    epochs: int = 1  # passes over the client's examples per round
    steps: int | None = None  # exactly so many steps per round, instead of epochs
    clip: float | None = None  # largest 2-norm of a gradient; None: no limit
    processes: int = 2  # results do not depend on it
    device: str = "cpu"  # where clients train; another one needs processes = 1
    evaluate_every: int = 1  # rounds
    checkpoint_every: int = 10  # rounds
    keep_frames: int = 0  # save the first so many messages of the run as files

    participants: ClassVar[str] = "clients"
    command: ClassVar[str] = "train"  # the command that plays it

    def __post_init__(self) -> None:
        self._check_task()
        check_split(self.split)
        check_whole(self.participants, self.clients, 1)
        check_whole("keep_frames", self.keep_frames, 0)
        counted = not is_named_object(self.data)  # else the data say how many clients there are
        if counted and self.per_round is not None and self.per_round > self.clients:
            raise LocalError(f"per_round is {self.per_round}, but there are {self.clients} {self.participants}")
        if self.holdout is not None:
            check_number("holdout", self.holdout, "[0, 1)", hint=", such as 0.2")
        if self.rounds is None and self.budget is None:
            raise LocalError("give rounds, such as 50, or a budget, such as 2MB")
        self.options(self.method)
        self.schedule()

    def _check_task(self) -> None:
        """LocalError when a listed name is unknown, or a listed model shall take data of the user's."""
        if not is_named_object(self.data):
            check_name(self.data)
        if not is_named_object(self.model):
            model_entry(self.model)
            if is_named_object(self.data):
                raise LocalError(
                    f"model {self.model} is built for the shape of a listed data set; with --data {self.data} give "
                    "--model module:function, too"
                )

    @staticmethod
    def options(method: str) -> dict[str, object]:
        """A method's options with their defaults."""
        return options(method)

    @property
    def name(self) -> str:
        """What tables call the run's method."""
        return self.label or str(MethodText(self.method, self.settings))

    def build_method(self) -> Method:
        """The method with its options, built anew; LocalError when it does not fit the local training."""
        method = build(self.method, self.settings)
        method.objective.check(self.local())
        return method

    def share_held_out(self, method: Method) -> float:
        """Share of every client's examples for testing its personal model; `method` is the run's."""
        if self.holdout is not None or is_named_object(self.data):
            return self.holdout or 0.0
        return HOLDOUT if method.personal else 0.0

    @property
    def replaced(self) -> dict[str, str]:
        """The fields that have no meaning in this run, each with the one that replaces it."""
        return replaced({"data": self.data, "optimizer": self.optimizer})

    @property
    def has_users_code(self) -> bool:
        """Whether code of the user's takes part."""
        return (
            is_named_object(self.data) or is_named_object(self.model) or any((self.loss, self.metric, self.optimizer))
        )

    def loss_function(self) -> Loss | None:
        """The function of (output, y); None: the default."""
        return loss_function(self.loss)

    def metric_function(self) -> Metric | None:
        """The function of (output, y); None: there is none."""
        return metric_function(self.metric)

    def local(self) -> LocalSGD | LocalTraining:
        """How a client trains."""
        if self.optimizer is None:
            return self.sgd()
        return LocalTraining(
            optimizer(self.optimizer),
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps=self.steps,
            clip=self.clip,
        )

    def sgd(self) -> LocalSGD:
        """The clients' SGD."""
        length = self.batch_size, self.epochs, self.steps
        return LocalSGD(self.lr, self.momentum, self.weight_decay, *length, self.clip, self.falling, self.end_factor)

    def schedule(self) -> Schedule:
        """Length, clients per round, and intervals."""
        every, rounds = (self.evaluate_every, self.checkpoint_every), NO_CAP if self.rounds is None else self.rounds
        where = self.processes, self.device
        return Schedule(rounds, self.per_round, *every, *where, self.budget_bytes, bool(self.instead))

    @property
    def budget_bytes(self) -> int | None:
        """Most bytes of the run, both directions; None: no limit."""
        return None if self.budget is None else read_budget(self.budget, self.clients)

    def asdict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"settings": dict(self.settings), "instead": dict(self.instead)}

    def meant(self) -> dict[str, Any]:
        """The fields that have a meaning in this run, for its page."""
        left_out = {*self.replaced} - {"clients"} | {
            name for name in ("loss", "metric", "optimizer") if not getattr(self, name)
        }
        return {name: value for name, value in self.asdict().items() if name not in left_out}

    def write(self, folder: Path) -> None:
        """Write it as the configuration of the run in `folder`."""
        write_atomically(folder / NAME, (json_text(self.asdict(), indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The configuration of the run in `folder`."""
        return cls.parse(read_json(folder / NAME), str(folder / NAME))

    @classmethod
    def parse(cls, found: object, where: str) -> Self:
        """From a JSON object; LocalError names an unknown key or a value of the wrong type."""
        if not isinstance(found, dict):
            raise LocalError(f"{where}: expected a JSON object; got {type(found).__name__}")
        known = [f.name for f in fields(cls)]
        for key in found:
            if key not in known:
                raise LocalError(f"{where}: unknown key {key!r}; the keys of this version are {', '.join(known)}")
        hints = get_type_hints(cls)
        return cls(**{key: typed(value, hints[key], f"{where}: {key}") for key, value in found.items()})


def check_listed(command: str, names: Mapping[str, str | None]) -> None:
    """LocalError where a command that takes listed data and models alone is given module:function."""
    for option, name in names.items():
        if name is not None and is_named_object(name):
            raise LocalError(
                f"fewbits {command} takes a listed --{option}; got {name}. From Python, fb.{command} takes your own"
            )


def replaced(found: Mapping[str, Any]) -> dict[str, str]:
    """Options that have no meaning beside these, each with the one that replaces it.

    >>> replaced({"data": "task:clients"})["split"]
    'data'
    """
    given = {"data": is_named_object(found.get("data")), "optimizer": found.get("optimizer") is not None}
    return {name: by for by, names in REPLACED.items() if given[by] for name in names}


def read_json(path: Path) -> object:
    """The content of a JSON file; LocalError when there is no such file, or it is not JSON."""
    try:
        return json.loads(path.read_text())
    except OSError:
        raise LocalError(_without(path)) from None
    except (ValueError, RecursionError) as error:
        raise LocalError(f"{path} is not JSON: {error}") from None


def _without(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}; start the run with --out {folder}"
    if left_nothing(folder):
        return f"{folder} is empty: its run was stopped before it began. Start it again, with --out {folder}"
    if of_a_call(folder):
        return f"{folder} holds {CALL}"
    return f"{folder} holds no run: there is no {path.name}{_other(path)}"


def _other(path: Path) -> str:
    """What the folder holds instead, as the rest of a sentence."""
    if (path.parent / NAME).is_file():
        return f"; it is one run: fewbits train --resume {path.parent}"
    if (path.parent / "compare.json").is_file():
        return f"; it is a comparison: fewbits compare (or gossip) --resume {path.parent}"
    return ""


def typed(value: Any, hint: Any, where: str) -> Any:
    """`value`, if it has the declared type of a field; LocalError says where it stands."""
    kinds = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    if get_origin(hint) is Mapping:
        if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            return value
        kinds = (dict,)
    elif float in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) in kinds:
        return value
    names = " or ".join("null" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise LocalError(f"{where} must be {names}; got {value!r}")
