"""RunConfig: the settings of a run from the command line, as its folder's config.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, get_origin, get_type_hints

from fewbits import data
from fewbits.checks import check_number, check_whole
from fewbits.data.partition import check_split
from fewbits.engines.common.run_files import CALL, left_nothing, of_a_call
from fewbits.engines.common.schedule import NO_CAP
from fewbits.engines.simulation import Schedule
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.learn import LocalSGD, Method
from fewbits.methods import build
from fewbits.methods.catalogue import options
from fewbits.models.build import model_entry
from fewbits.sizes import read_budget

NAME = "config.json"
HOLDOUT = 0.2  # for methods with personal models


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. Names and numbers are checked here, the split by the data, the options by the method."""

    data: str = "digits"  # `fewbits data` lists them
    data_dir: str | None = None  # folder with the data set's files; None: the default source
    model: str = "mlp"  # `fewbits models` lists them
    clients: int = 20
    per_round: int | None = None  # clients sampled in each round; None: all
    split: str = "iid"  # iid, dirichlet:A, classes:K or natural
    holdout: float | None = None  # share of a client's rows for testing its personal model; None: 0.2 if it has one
    method: str = "dense"  # `fewbits methods` lists them
    settings: Mapping[str, str] = field(default_factory=dict)  # the method's options, as text
    label: str = ""  # what tables call the method; "": its name
    chosen: str | None = None  # why, by --method auto; None: it was given
    rounds: int | None = 50  # None: the budget alone ends the run
    budget: str | None = None  # most bytes in both directions: SIZE, or SIZE/client; None: no limit
    seed: int = 0  # of all randomness: partition, initial model, sampling, batches, dither
    lr: float = 0.1  # of the clients' SGD
    falling: int | None = None  # rounds over which lr falls to a tenth; None: it is constant
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
        data.data_info(self.data)
        model_entry(self.model)
        check_split(self.split)
        check_whole(self.participants, self.clients, 1)
        check_whole("keep_frames", self.keep_frames, 0)
        if self.per_round is not None and self.per_round > self.clients:
            raise LocalError(f"per_round is {self.per_round}, but there are {self.clients} {self.participants}")
        if self.holdout is not None:
            check_number("holdout", self.holdout, "[0, 1)", hint=", such as 0.2")
        if self.rounds is None and self.budget is None:
            raise LocalError("give rounds, such as 50, or a budget, such as 2MB")
        self.options(self.method)
        self.schedule()

    @staticmethod
    def options(method: str) -> dict[str, object]:
        """A method's options with their defaults."""
        return options(method)

    @property
    def name(self) -> str:
        """What tables call the run's method."""
        return self.label or self.method

    def build_method(self) -> Method:
        """The method with its options, built anew; LocalError when it does not fit the local training."""
        method = build(self.method, self.settings)
        method.objective.check(self.local())
        return method

    def share_held_out(self, method: Method) -> float:
        """Share of every client's examples for testing its personal model; `method` is the run's."""
        if self.holdout is not None:
            return self.holdout
        return HOLDOUT if method.personal else 0.0

    def local(self) -> LocalSGD:
        """How a client trains."""
        options = self.momentum, self.weight_decay, self.batch_size, self.epochs, self.steps, self.clip, self.falling
        return LocalSGD(self.lr, *options)

    def schedule(self) -> Schedule:
        """Length, clients per round, and intervals."""
        every, rounds = (self.evaluate_every, self.checkpoint_every), NO_CAP if self.rounds is None else self.rounds
        return Schedule(rounds, self.per_round, *every, self.processes, self.device, self.budget_bytes)

    @property
    def budget_bytes(self) -> int | None:
        """Most bytes of the run, both directions; None: no limit."""
        return None if self.budget is None else read_budget(self.budget, self.clients)

    def asdict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"settings": dict(self.settings)}

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
                raise LocalError(f"{where}: unknown key {key!r}; the keys are {', '.join(known)}")
        hints = get_type_hints(cls)
        return cls(**{key: _typed(value, hints[key], f"{where}: {key}") for key, value in found.items()})


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


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value`, if it has the declared type of the field."""
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
