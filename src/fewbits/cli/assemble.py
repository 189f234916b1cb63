"""From a RunConfig to a Federation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from fewbits import data, models
from fewbits.cli.config import RunConfig
from fewbits.cli.frame_recorder import FrameRecorder
from fewbits.codecs import Lift
from fewbits.codecs.lifts.lift import AnySpec, entries
from fewbits.data import Data
from fewbits.engines.simulation import Federation, Task
from fewbits.files import write_atomically
from fewbits.links.identity import codec_hash
from fewbits.rng import Key

WIRE = "wire.json"


def load_data(config: RunConfig) -> Data:
    """The data set."""
    return data.load(config.data, config.data_dir)


def build_model(config: RunConfig, found: Data) -> nn.Module:
    """The initial model, prepared as Federation would: a pattern that matches nothing is told of now."""
    return model_of(config, found, Key(config.seed))


def model_of(config: RunConfig, found: Data, key: Key) -> nn.Module:
    """The model that a seed gives: what a client makes for itself at first contact."""
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
    return Task(
        model,
        found.train_x,
        found.train_y,
        parts,
        found.test_x,
        found.test_y,
        config.local(),
        held=held,
        seed=key,
        build=partial(model_of, config, found),
    )


def build_federation(config: RunConfig, folder: Path, task: Task) -> Federation:
    """The run in `folder`, new or continued; notes there what travels, for `fewbits inspect`."""
    federation = Federation(task, config.build_method(), config.schedule(), Key(config.seed), folder)
    server = federation.server
    note = [_link("uplink", "", server.exchange.up, server.exchange.sent)]
    note += [_link("downlink", *kind) for kind in server.broadcast.kinds]
    write_atomically(folder / WIRE, (json.dumps(note, indent=2) + "\n").encode())
    keeper = FrameRecorder(folder / "frames", config.keep_frames)
    federation.tap = keeper if keeper.wants else None
    return federation


def _link(way: str, kind: str, codec: Lift, spec: AnySpec) -> dict[str, object]:
    tensors = [[name, list(leaf.shape), leaf.dtype] for name, leaf in entries(spec)]
    name = f"{codec_hash(codec, spec, kind):04X}"
    return {"link": way, "kind": kind, "codec": repr(codec), "hash": name, "tensors": tensors}
