"""From a RunConfig to a Federation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import nn

from fewbits import data, models
from fewbits.cli.config import RunConfig
from fewbits.cli.frames import Keeper
from fewbits.codecs import Lift
from fewbits.codecs.lift import AnySpec, entries
from fewbits.data import Data
from fewbits.engines.memory import Federation, Task
from fewbits.engines.memory.checkpoint import write_atomically
from fewbits.link.identity import codec_hash
from fewbits.rng import Key

WIRE = "wire.json"


def load_data(config: RunConfig) -> Data:
    """The data set."""
    return data.load(config.data, config.data_dir)


def build_model(config: RunConfig, found: Data) -> nn.Module:
    """The initial model, prepared as Federation would: a pattern that matches nothing is told of now."""
    key = Key(config.seed)
    model = models.build(config.model, found, key.fold("model"))
    config.build_method().prepare(model, key.fold("factor"))
    return model


def build_task(config: RunConfig, found: Data) -> Task:
    """Partition and initial model: the same for every method but for its factors; they depend on the seed alone."""
    key = Key(config.seed)
    parts = data.partition(found.train_y, config.split, config.clients, key.fold("partition"), found.groups)
    held: list[np.ndarray] = []
    if config.held_share:
        parts, held = data.hold_out(parts, config.held_share, key.fold("holdout"))
    model = build_model(config, found)
    return Task(model, found.train_x, found.train_y, parts, found.test_x, found.test_y, config.local(), held=held)


def build_federation(config: RunConfig, folder: Path, task: Task) -> Federation:
    """The run in `folder`, new or continued; notes there what travels, for `fewbits inspect`."""
    federation = Federation(task, config.build_method(), config.schedule(), Key(config.seed), folder)
    server = federation.server
    note = [_link("uplink", server.up, server.up_spec), *(_link("downlink", *pair) for pair in server.broadcast.codecs)]
    write_atomically(folder / WIRE, (json.dumps(note, indent=2) + "\n").encode())
    keeper = Keeper(folder / "frames", config.keep_frames)
    federation.tap = keeper if keeper.wants else None
    return federation


def _link(way: str, codec: Lift, spec: AnySpec) -> dict[str, object]:
    tensors = [[name, list(leaf.shape), leaf.dtype] for name, leaf in entries(spec)]
    return {"link": way, "codec": repr(codec), "hash": f"{codec_hash(codec, spec):04X}", "tensors": tensors}
