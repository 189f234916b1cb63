"""Trainer: a node's local steps on its part of the task, and what is told of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch.nn.functional import cross_entropy

from fewbits.engines.common.task import Task
from fewbits.engines.gossip.coding import coding
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import Node
from fewbits.links.ledger import stages
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES


@dataclass(frozen=True)
class Sent:
    """What came of one node's step."""

    node: int
    frame_bytes: int
    payload_bytes: int
    stages: dict[str, int]  # payload bits by section
    loss: float  # mean over the local steps
    coding: dict[str, float] = field(default_factory=dict)  # bits of the levels: coded, entropy, predicted

    def asdict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class Trainer:
    """Trains any node of the task on one model."""

    def __init__(self, task: Task, key: Key, model: FlatModel) -> None:
        self.task, self.key = task, key
        buffers = dict(model.module.named_buffers())
        self._untravelled = {name: buffers[name].clone() for name in buffers if name not in model.buffer_names}

    def step(self, node: Node) -> tuple[bytes, Sent]:
        """A waking node's frame, and what came of its step; LocalError names node and round."""
        task, losses = self.task, [0.0]

        def train(model: FlatModel) -> float:
            for name, buffer in self._untravelled.items():  # counters of batches: no node may see another's
                model.module.get_buffer(name).copy_(buffer)
            key = self.key.fold("round", node.round + 1, "node", node.me)
            rows, loss = task.parts[node.me], task.loss or cross_entropy
            report = task.local.train(model, task.x, task.y, rows, key, loss=loss)
            losses[0] = report.loss
            return task.local.lr * report.steps

        try:
            frame = node.step(train)
        except LocalError as error:
            raise LocalError(f"node {node.me}, round {node.round + 1}: {error}") from None
        found = stages(node.sender.sections)
        return frame, Sent(node.me, len(frame), len(frame) - HEADER_BYTES, found, losses[0], coding(node.sender))
