"""NodeCheckpoints: each node's own checkpoints, and the newest round of which all nodes have one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewbits.engines.common import checkpoint
from fewbits.errors import DesyncError, LocalError
from fewbits.json_text import json_text


class NodeCheckpoints:
    """The last two checkpoints of one node, in its own folder, such as `folder/node-0003`."""

    def __init__(self, folder: Path, node: int) -> None:
        self._folder = folder / f"node-{node:04d}"
        self.rounds = [note.round for note in checkpoint.notes(self._folder)]  # of sound checkpoints, newest first

    def describe(self) -> str:
        """The rounds, for the handshake."""
        return json_text(self.rounds)

    def write(self, tensors: Mapping[str, Tensor], note: checkpoint.Note) -> None:
        """Write a checkpoint."""
        checkpoint.write(self._folder, tensors, note)

    def drop(self, after: int) -> None:
        """Remove the checkpoints of later rounds; the run repeats those rounds."""
        for later in (round for round in checkpoint.rounds(self._folder) if round > after):
            (self._folder / f"round-{later:08d}.json").unlink()

    def read(self, round: int, settings: Mapping[str, str]) -> tuple[checkpoint.Note, dict[str, Tensor]]:
        """The checkpoint of that round; removes later ones. LocalError when it is of a run with other settings."""
        self.drop(round)
        taken: list[dict[str, Tensor]] = []
        note, _ = checkpoint.newest(self._folder, lambda _, tensors: taken.append(tensors))
        if note is None or note.round != round:
            raise LocalError(f"{self._folder} has no sound checkpoint of round {round}")
        note.check_settings(self._folder, settings)
        return note, taken[-1]


def newest_common_round(described: list[str]) -> int:
    """The newest round of which every node has a sound checkpoint; 0 when no node has two checkpoints.

    A node writes its second checkpoint after all have written their first. So once a node has two, a node without any
    has lost them. DesyncError when the nodes have no common round.
    """
    rounds = [set(json.loads(text)) for text in described]
    common = set.intersection(*rounds)
    if common:
        return max(common)
    if all(len(each) < checkpoint.KEEP for each in rounds):
        return 0
    found = "; ".join(f"node {node} has {sorted(each) or 'none'}" for node, each in enumerate(rounds))
    raise DesyncError(f"the nodes have no common round to resume from: {found}")
