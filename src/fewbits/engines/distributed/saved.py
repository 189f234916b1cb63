"""Saved: each node's own checkpoints, and the newest round that all nodes can go back to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewbits.engines.common import checkpoint
from fewbits.errors import DesyncError, LocalError


class Saved:
    """The checkpoints of one node, in a folder of its own: `folder/node-0003`; the last two are kept."""

    def __init__(self, folder: Path, node: int) -> None:
        self._folder = folder / f"node-{node:04d}"
        self.sound = [note.round for note in checkpoint.notes(self._folder)]  # rounds, newest first

    def describe(self) -> str:
        """The rounds, for the handshake."""
        return json.dumps(self.sound)

    def write(self, tensors: Mapping[str, Tensor], note: checkpoint.Note) -> None:
        """After the round that the note names."""
        checkpoint.write(self._folder, tensors, note)

    def drop(self, after: int) -> None:
        """Forget the checkpoints of later rounds: those are played again."""
        for later in (found for found in checkpoint.rounds(self._folder) if found > after):
            (self._folder / f"round-{later:08d}.json").unlink()

    def read(self, round: int, settings: Mapping[str, str]) -> tuple[checkpoint.Note, dict[str, Tensor]]:
        """The checkpoint of that round; those after it are dropped.

        LocalError when it is of a run with other settings.
        """
        self.drop(round)
        kept: list[dict[str, Tensor]] = []
        note, _ = checkpoint.newest(self._folder, lambda _, found: kept.append(found))
        if note is None or note.round != round:
            raise LocalError(f"{self._folder} has no sound checkpoint of round {round}")
        for name, value in settings.items():
            if note.settings.get(name) != value:
                before = note.settings.get(name)
                raise LocalError(f"{self._folder} holds another {name}: {before}; got {value}. Use a new folder")
        return note, kept[-1]


def common(described: list[str]) -> int:
    """The newest round of which every node has a sound checkpoint; 0, the start, when none has more than its first.

    A node keeps its second checkpoint once all have kept their first, so whoever has none then has lost it.
    DesyncError when they have none in common.
    """
    rounds = [set(json.loads(text)) for text in described]
    shared = set.intersection(*rounds)
    if shared:
        return max(shared)
    if all(len(found) < checkpoint.KEEP for found in rounds):
        return 0
    reported = "; ".join(f"node {node} has {sorted(found) or 'none'}" for node, found in enumerate(rounds))
    raise DesyncError(f"the nodes have no checkpoint of one round to go on from: {reported}")
