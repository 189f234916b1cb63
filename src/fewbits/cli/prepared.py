"""PreparedRun: a run's method, model and data, built once from its RunConfig."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from fewbits import data, models
from fewbits.cli.config import RunConfig
from fewbits.cli.frame_recorder import FrameRecorder
from fewbits.data import Data
from fewbits.engines.common.run_files import write_links
from fewbits.engines.simulation import Federation, Task
from fewbits.engines.simulation.budget import check_affordable
from fewbits.factor.derived import duplicate
from fewbits.learn.method import Method
from fewbits.rng import Key


def load_data(config: RunConfig) -> Data:
    """The data set of the run."""
    return data.load(config.data, config.data_dir)


def initial_model(config: RunConfig, found: Data) -> nn.Module:
    """The model that the seed gives, before the method changes it."""
    return models.build(config.model, found, Key(config.seed).fold("model"))


class InitialModels:
    """The initial model of a comparison's runs: built once per seed; the last one is stored."""

    def __init__(self, found: Data) -> None:
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

    def check_budget(self) -> None:
        """LocalError when one round alone is above the run's budget, by its forecast."""
        check_affordable(self.config.schedule(), self.task, self.method, self.key)

    def federation(self, folder: Path) -> Federation:
        """The run in `folder`, new or continued; describes the links there for `fewbits inspect`."""
        federation = Federation(self.task, self.method, self.config.schedule(), self.key, folder)
        write_links(federation.server, folder)
        recorder = FrameRecorder(folder / "frames", self.config.keep_frames)
        federation.tap = recorder if recorder.wants else None
        return federation


def prepare(
    config: RunConfig, found: Data, method: Method | None = None, initial: nn.Module | None = None
) -> PreparedRun:
    """Build what the run needs; partition and initial model depend on the seed alone.

    Args:
        config: of the run.
        found: its data set.
        method: the run's method, if it is built already.
        initial: what `initial_model` gives, if it is built already; it is copied.

    Raises:
        LocalError: the split, the method and the model do not fit each other.
    """
    method = method or config.build_method()
    build = ModelFromSeed(config, found, method, initial or initial_model(config, found))
    return PreparedRun(config, method, _task(config, found, method, build), split_notes(config, found))


def build_task(config: RunConfig, found: Data) -> Task:
    """The task of a run whose method is built elsewhere."""
    return prepare(config, found).task


def partition(config: RunConfig, found: Data) -> list[np.ndarray]:
    """Each client's row numbers; they depend on the seed alone."""
    key = Key(config.seed).fold("partition")
    return data.partition(found.train_y, config.split, config.clients, key, found.groups)


def split_notes(config: RunConfig, found: Data) -> tuple[str, ...]:
    """Sentences about what the run's split leaves out, for terminal and page."""
    return tuple(data.split_notes(found.train_y, config.split, partition(config, found), found.groups))


def _task(config: RunConfig, found: Data, method: Method, build: ModelFromSeed) -> Task:
    key, share = Key(config.seed), config.share_held_out(method)
    parts = partition(config, found)
    tests: list[np.ndarray] = []
    if share:
        parts, tests = data.hold_out(parts, share, key.fold("holdout"))
    return Task(
        build(key),
        found.train_x,
        found.train_y,
        parts,
        found.test_x,
        found.test_y,
        config.local(),
        holdout=tests,
        seed=key,
        build=build,
    )
