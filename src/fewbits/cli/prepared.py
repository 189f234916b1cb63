"""PreparedRun: a run's method, model and data, built once from its RunConfig."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from fewbits import data, models
from fewbits.cli.config import RunConfig
from fewbits.cli.frame_recorder import FrameRecorder
from fewbits.cli.named_object import is_named_object, model_function, named_model, named_object
from fewbits.cli.objective_text import objective, scale_note
from fewbits.cli.problems import Problems
from fewbits.cli.users_task import users_task
from fewbits.data import Data
from fewbits.data.table import is_file
from fewbits.engines.common.initial_model import seed_of
from fewbits.engines.common.run_files import write_links
from fewbits.engines.simulation import Federation, Task
from fewbits.engines.simulation.affordable import check_affordable, too_dear
from fewbits.engines.simulation.run_checks import check_arguments
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.learn.method import Method
from fewbits.rng import Key

Found = Data | Task  # a listed data set, or a task of the user's with its data


def load_data(config: RunConfig, limit: int | None = None) -> Found:
    """The data set of the run, at most so many examples of it, or the task that the user's function gives."""
    if is_named_object(config.data):
        return users_task(config)
    return data.load(config.data, config.data_dir, limit=limit)


def is_remote(config: RunConfig) -> bool:
    """Whether loading the data may ask a network for them."""
    local = config.data == "digits" or is_named_object(config.data) or is_file(config.data)
    return not local and config.data_dir is None


def check_names(config: RunConfig, problems: Problems) -> None:
    """Look up each function of the user's that the run names."""
    checks: list[Callable[[], object]] = [config.local, config.loss_function, config.metric_function]
    if is_named_object(config.model):
        checks.append(lambda: model_function(config.model))
    if is_named_object(config.data):
        checks.append(lambda: named_object("--data", config.data))
    for check in checks:
        problems.of(check)


def counted(config: RunConfig, found: Found) -> RunConfig:
    """The configuration with the number of clients that the user's data have."""
    return replace(config, clients=found.clients) if isinstance(found, Task) else config


def initial_model(config: RunConfig, found: Found) -> nn.Module:
    """The model that the seed gives, before the method changes it."""
    key = Key(config.seed).fold("model")
    return (
        named_model(config.model, key)
        if is_named_object(config.model)
        else models.build(config.model, listed(found), key)
    )


def listed(found: Found) -> Data:
    """The listed data set; LocalError where the data are the user's."""
    if isinstance(found, Task):
        raise LocalError("this takes listed data sets; `fewbits data` lists them")
    return found


class InitialModels:
    """The initial model of a comparison's runs: built once per seed; the last one is stored."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._last: tuple[int, nn.Module] | None = None  # seed and model

    def of(self, config: RunConfig) -> nn.Module:
        """The model of the run's seed; callers copy it."""
        if self._last is None or self._last[0] != config.seed:
            self._last = config.seed, initial_model(config, self._found)
        return self._last[1]


@dataclass(frozen=True, eq=False)
class ModelFromSeed:
    """Builds the prepared model from a key, as a client does at first contact; for the run's key it makes a copy."""

    config: RunConfig
    found: Data
    method: Method
    initial: nn.Module  # of the run's key; never changed

    def __call__(self, key: Key) -> nn.Module:
        """The model, with the method's factors and private parts."""
        if key == Key(self.config.seed):
            model = duplicate(self.initial)
        else:
            model = models.build(self.config.model, self.found, key.fold("model"))
        self.method.prepare(model, key.fold("factor"))
        return model


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """Everything that a run needs, built once and passed on."""

    config: RunConfig
    method: Method
    task: Task
    notes: tuple[str, ...] = ()  # what the split leaves out

    @property
    def key(self) -> Key:
        """The root of all randomness of the run."""
        return Key(self.config.seed)

    def check(self) -> None:
        """LocalError when the user's code fails on a batch, or one round is above the run's budget, by its forecast."""
        self.check_code()
        check_affordable(self.config.schedule(), self.task, self.method, self.key)

    @property
    def too_dear(self) -> str:
        """Why one round is above the run's budget, by its forecast; "": it is not."""
        return too_dear(self.config.schedule(), self.task, self.method, self.key)

    def check_code(self) -> None:
        """LocalError when the user's code fails on a batch."""
        if self.config.has_users_code:
            check_arguments(self.task, self.method, self.config.schedule(), self.key)

    def federation(self, folder: Path) -> Federation:
        """The run in `folder`, new or continued; describes the links there for `fewbits inspect`."""
        federation = Federation(self.task, self.method, self.config.schedule(), self.key, folder)
        write_links(federation.server, folder)
        recorder = FrameRecorder(folder / "frames", self.config.keep_frames)
        federation.tap = recorder if recorder.wants else None
        return federation


def prepare(
    config: RunConfig, found: Found, method: Method | None = None, initial: nn.Module | None = None
) -> PreparedRun:
    """Build what the run needs; partition and initial model depend on the seed alone.

    Args:
        config: of the run.
        found: its data set, or a task of the user's.
        method: the run's method, if it is built already.
        initial: what `initial_model` gives, if it is built already; it is copied.

    Raises:
        LocalError: the split, the method and the model do not fit each other.
    """
    method = method or config.build_method()
    initial = initial or initial_model(config, found)
    if isinstance(found, Task):
        seed, build = seed_of(model_function(config.model), initial, Key(config.seed))
        task = replace(found, model=duplicate(initial), local=config.local(), seed=seed, build=build)
        return PreparedRun(config, method, task, personal_notes([method], task))
    return PreparedRun(config, method, _task(config, found, method, initial), split_notes(config, found))


def build_task(config: RunConfig, found: Found) -> Task:
    """The task of a run whose method is built elsewhere."""
    return prepare(config, found).task


def partition(config: RunConfig, found: Data) -> list[np.ndarray]:
    """Each client's row numbers; they depend on the seed alone."""
    key = Key(config.seed).fold("partition")
    return data.partition(found.train_y, config.split, config.clients, key, found.groups)


def split_notes(config: RunConfig, found: Found) -> tuple[str, ...]:
    """Sentences about a scaled target and what the run's split leaves out, for terminal and page."""
    if isinstance(found, Task):
        return ()
    left_out = data.split_notes(found.train_y, config.split, partition(config, found), found.groups)
    return (*scale_note(found), *left_out)


def personal_notes(methods: Iterable[Method], found: Found) -> tuple[str, ...]:
    """A sentence for each method whose models the test set of the user's data does not evaluate, and nothing else."""
    if not isinstance(found, Task) or found.test is None or found.holds_out:
        return ()
    said = (
        "leaves each client a model of its own, so the test set of --data says nothing; --holdout 0.2 evaluates the "
        "clients' models on examples of theirs"
    )
    return tuple(f"{method.name} {said}" for method in methods if method.personal)


def _task(config: RunConfig, found: Data, method: Method, initial: nn.Module) -> Task:
    key, share = Key(config.seed), config.share_held_out(method)
    parts = partition(config, found)
    tests: list[np.ndarray] = []
    if share:
        parts, tests = data.hold_out(parts, share, key.fold("holdout"))
    if is_named_object(config.model):
        seed, build = seed_of(model_function(config.model), initial, key)
    else:
        seed, build = key, ModelFromSeed(config, found, method, initial)
    loss, metric = objective(config.loss, config.metric, found)
    return Task(
        duplicate(initial) if build is None else build(key),
        found.train_x,
        found.train_y,
        parts,
        found.test_x,
        found.test_y,
        config.local(),
        loss,
        holdout=tests,
        seed=seed,  # None: a model of the user's travels at first contact
        build=build,
        metric=metric,
    )
