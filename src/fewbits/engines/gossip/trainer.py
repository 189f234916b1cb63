"""Trainer: a node's local steps on its part of the task, and the byte counts of its frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.engines.common.task import Task
from fewbits.engines.gossip.level_bits import level_bits
from fewbits.errors import LocalError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import Node
from fewbits.learn.local_tensors import LocalTensors
from fewbits.links.ledger import stages
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES


@dataclass(frozen=True)
class StepReport:
    """Loss and byte counts of one node's step."""

    node: int
    frame_bytes: int
    payload_bytes: int
    stages: dict[str, int]  # payload bits by section
    loss: float  # mean over the local steps
    level_bits: dict[str, float] = field(default_factory=dict)  # coded, entropy, predicted
    remarks: Sequence[str] = ()  # sentences about tensors that training changed and that do not travel

    def asdict(self) -> dict[str, object]:
        """The fields, for JSON."""
        return asdict(self)


class Trainer:
    """Trains any node of the task on one model."""

    def __init__(self, task: Task, key: Key, model: FlatModel) -> None:
        self.task, self.key = task, key
        self.local_tensors = LocalTensors(model)
        self._unknown = shared_values.unknown_buffers(model)
        self._before: dict[str, Tensor] = {}  # the unknown buffers before a node's training

    def step(self, node: Node) -> tuple[bytes, StepReport]:
        """An active node's frame and report. LocalError names the node and the round."""
        losses = [0.0]

        def train(model: FlatModel) -> float:
            losses[0], eta = self._train(node, model)
            return eta

        try:
            frame = node.step(train)
            self._look(node.flat)
        except LocalError as error:
            raise LocalError(f"node {node.me}, round {node.round + 1}: {error}") from None
        bits = stages(node.sender.sections)
        payload = len(frame) - HEADER_BYTES
        return frame, StepReport(node.me, len(frame), payload, bits, losses[0], level_bits(node.sender), self.remarks)

    def _look(self, model: FlatModel) -> None:
        """Remark on tensors that the training changed, where a mean of them is not known to mean anything."""
        self.local_tensors.look()
        trained = shared_values.values(model)
        for name, before in self._before.items():
            if not torch.equal(trained[name], before):
                self._unknown.remove(name)
                self.local_tensors.remarks[name] = shared_values.averaged(name)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about tensors that training changed and that do not travel."""
        return tuple(self.local_tensors.remarks.values())

    def _train(self, node: Node, model: FlatModel) -> tuple[float, float]:
        """(mean loss, eta) of the node's local steps."""
        task = self.task
        self.local_tensors.restore_all()  # no node may see another's
        current = shared_values.values(model)
        self._before = {name: current[name].clone() for name in self._unknown}
        key = self.key.fold("round", node.round + 1, "node", node.me)
        examples, loss = task.parts[node.me], task.loss or cross_entropy
        report = task.local.train(model, task.x, task.y, examples, key, loss=loss)
        return report.loss, task.local.lr * report.steps
