"""The ways to train that run.py compares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import fewbits as fb
from fewbits.learn.optimizers import ServerOptimizer

RANKS, WINDOWS, STEPS = 4, 2, 9600
WARMUP = 100


def schedule(step: int, steps: int) -> float:
    """A linear warm-up, then a cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))


@dataclass(frozen=True)
class Case:
    """One way to train."""

    name: str
    method: Any = None  # of OuterStep, or without a server; a function of the number of parameters; None: data parallel
    every: int = 30
    optimizer: Any = None  # None: the method's own; of a codec DiLoCo's
    fragments: int = 1
    lr: float = 2e-3  # AdamW's, the same for all whose ranks train the model itself
    way: str = "outer"  # a name in ways.WAYS
    inside: int = 0  # ranks train in a subspace of so many times fewer numbers; 0: they train the model itself
    gradients: bool = False  # whether ranks send gradients instead of what AdamW made of them


@dataclass(frozen=True)
class SignStep(ServerOptimizer):
    """theta := (1 - lr decay) theta - lr sign(update), with a rate that follows the schedule.

    Args:
        lr: the greatest rate.
        steps: of the run.
        decay: of the weights.
    """

    wire_name: ClassVar[str] = "sign_step"

    lr: float
    steps: int = STEPS
    decay: float = 0.1

    def init(self, numel: int) -> tuple[Tensor, ...]:
        return (torch.zeros(1),)  # steps so far

    def step(
        self, theta: Tensor, update: Tensor, moments: tuple[Tensor, ...], *, share: float = 1.0
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        lr = self.lr * schedule(int(moments[0]), self.steps)
        return theta * (1 - lr * self.decay) - lr * update.sign(), (moments[0] + 1,)


def projected(numel: int) -> fb.codecs.Codec:
    """Pseudo-gradients in another subspace in each outer step, with feedback of what is outside."""
    subspace = fb.Subspace(numel // 64, seed=None, basis="sparse")
    return fb.ErrorFeedback(fb.chain(subspace, fb.Quantize(bits=4), fb.Rans()))


FOUR_BITS = fb.chain(fb.Quantize(bits=4), fb.Rans())
CASES = [
    Case("data parallel", way="data parallel"),
    Case("diloco, float32", fb.Raw()),
    Case("diloco, 4 bit", FOUR_BITS),
    Case("diloco, 4 bit, 3 fragments", FOUR_BITS, fragments=3),
    Case("diloco, top 1.56%, 4 bit", "topk@fraction=0.0156,bits=4", optimizer=fb.ServerSGD(lr=0.7)),
    Case("sparseloco", "sparseloco"),
    Case("sparseloco@lr=4,decay=1", "sparseloco@lr=4,decay=1"),
    Case("inside a subspace, d = D / 64, 4 bit", FOUR_BITS, lr=4e-3, inside=64),
    Case("pseudo-gradients in subspaces, d = D / 64", projected, optimizer=fb.ServerSGD()),
    Case("powersgd, rank 4", "powersgd"),
    Case("demo, outer steps", "demo@lr=4"),
    Case("demo, every step", "demo", every=1, optimizer=SignStep(1e-3), gradients=True),
    Case("lbgm over 4 bit", fb.LookBack(FOUR_BITS, threshold=0.98, feedback=True)),
    Case("predict over 4 bit", fb.Predict(FOUR_BITS, silent=0.2)),
    Case("noloco, 4 bit", "noloco", way="partners"),
    Case("gossip on a ring, choco, 4 bit", "choco@bits=4", way="gossip"),
]
