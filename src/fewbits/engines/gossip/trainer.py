"""Trainer: a node's local steps on its part of the task, and the byte counts of its frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from fewbits.engines.common.failed_turn import data_fault
from fewbits.engines.common.local_turn import train_locally
from fewbits.engines.common.task import Task, sgd
from fewbits.engines.gossip.level_bits import level_bits
from fewbits.errors import LocalError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import Node
from fewbits.learn.local_tensors import LocalTensors
from fewbits.links.finite import all_finite
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
    loss: float | None  # mean over the local steps; None: no step was taken, or none had a finite loss
    level_bits: dict[str, float] = field(default_factory=dict)  # coded, entropy, predicted
    trouble: str = ""  # why the node took no step; "" when it took one
    raised: bool = False  # the user's model, loss or data raised; else the trained model was not finite
    loss_note: str = ""  # what the mean loss of its steps leaves out
    remarks: Sequence[str] = ()  # sentences about tensors that training changed and that do not travel

    def asdict(self) -> dict[str, object]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass
class LocalSteps:
    """How the local steps of one node went; see `StepReport`."""

    loss: float | None = None
    trouble: str = ""
    raised: bool = False
    loss_note: str = ""

    def fail(self, trouble: str, raised: bool = False) -> float:
        """They failed; returns 0, the eta of no step."""
        self.loss, self.trouble, self.raised, self.loss_note = None, trouble, raised, ""
        return 0.0


class Trainer:
    """Trains any node of the task on one model. A node whose training fails takes no step and still sends a frame."""

    def __init__(self, task: Task, key: Key, model: FlatModel) -> None:
        self.task, self.key = task, key
        self.local_tensors = LocalTensors(model)
        self._unknown = shared_values.unknown_buffers(model)
        self._before: dict[str, Tensor] = {}  # the unknown buffers before a node's training

    def step(self, node: Node) -> tuple[bytes, StepReport]:
        """An active node's frame and report. LocalError names the node and the round."""
        steps = LocalSteps()
        try:
            frame = self._frame(node, steps)
            self._look(node.flat)
        except LocalError as error:
            raise LocalError(f"node {node.me}, round {node.round + 1}: {error}") from None
        bits = stages(node.sender.sections)
        payload = len(frame) - HEADER_BYTES
        measured = {"level_bits": level_bits(node.sender), "remarks": self.remarks}
        return frame, StepReport(node.me, len(frame), payload, bits, **measured, **vars(steps))

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

    def _frame(self, node: Node, steps: LocalSteps) -> bytes:
        try:
            return node.step(lambda model: self._train(node, model, steps))
        except LocalError as error:
            if steps.trouble:  # its training had failed before: the frame has another reason
                raise
            steps.fail(str(error))
        return node.step(lambda model: 0.0)

    def _train(self, node: Node, model: FlatModel, steps: LocalSteps) -> float:
        """The node's local steps; returns eta, or 0 when they failed."""
        task = self.task
        self.local_tensors.restore_all()  # no node may see another's
        current = shared_values.values(model)
        self._before = {name: current[name].clone() for name in self._unknown}
        key, local = self.key.fold("round", node.round + 1, "node", node.me), sgd(task).at(node.round + 1)
        report = train_locally(task, model, node.me, node.round + 1, key)
        model.undisturbed = False
        if isinstance(report, str):
            return steps.fail(report, raised=True)
        if not all_finite(model.whole):
            return steps.fail(f"the trained model is not finite{data_fault(task.x, task.parts[node.me])}")
        steps.loss, steps.loss_note = report.loss, report.loss_note
        return local.lr * report.steps
