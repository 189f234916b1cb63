"""Four ranks in one process: what they train, what they exchange, and what a rank must remember for it."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from cases import RANKS, Case
from torch import Tensor, nn

import fewbits as fb
from fewbits.analysis.forecast.ranks import all_reduce, forecast_ranks
from fewbits.codecs import Basis
from fewbits.factor.coordinates import enter_subspace
from fewbits.methods.gossip import gossip_method

BASIS = fb.Key(7)  # of the subspace; everybody's
COEFFICIENT = 21  # bytes of a frame that has one number


def inside(model: nn.Module, fewer: int) -> nn.Module:
    """The model, which trains in a subspace from now on."""
    return enter_subspace(model, lambda numel: [Basis(numel, numel // fewer, BASIS, "sparse", "unbiased")])


class Way(ABC):
    """What the ranks of a case do after each inner step."""

    messages = 2  # that follow each other in an exchange: an announcement, and a frame

    def __init__(self, case: Case, model: nn.Module, key: fb.Key) -> None:
        self.numel = sum(p.numel() for p in model.parameters())
        method = case.method(self.numel) if callable(case.method) else case.method
        self.case = replace(case, method=method)
        self.shown = inside(model, case.inside) if case.inside else model  # what is evaluated
        self.models: Sequence[nn.Module] = [copy.deepcopy(self.shown) for _ in range(RANKS)]
        self.sent, self.exchanges = 0.0, 0  # bytes of the first rank, to all its receivers
        self.silent = 0  # exchanges in which the first rank sent a coefficient alone

    @abstractmethod
    def exchange(self) -> None:
        """Count an inner step, and exchange frames when it is time."""

    def finish(self) -> None:
        """After the last inner step: what is left to exchange for the model that is evaluated; mostly nothing."""
        return

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """The tensors of the model that is evaluated."""

    @abstractmethod
    def state_bytes(self) -> int:
        """What a rank remembers for its exchanges, beside the model and its AdamW."""

    @abstractmethod
    def codec_seconds(self) -> float:
        """Processor time of a rank for an exchange: to make a frame, and to use those of the others."""


class DataParallel(Way):
    """The mean gradient in every step: one model takes the windows of all ranks."""

    messages = 2 * (RANKS - 1)

    def __init__(self, case: Case, model: nn.Module, key: fb.Key) -> None:
        super().__init__(case, model, key)
        self.models = self.models[:1]
        self._ring = all_reduce(self.numel, RANKS)

    def exchange(self) -> None:
        self.exchanges += 1
        self.sent += self._ring.sent_bytes

    def values(self) -> dict[str, Tensor]:
        return self.models[0].state_dict()

    def state_bytes(self) -> int:
        return 0

    def codec_seconds(self) -> float:
        return 0.0


class OuterSteps(Way):
    """Outer steps of all ranks with one another."""

    def __init__(self, case: Case, model: nn.Module, key: fb.Key) -> None:
        super().__init__(case, model, key)
        streaming = fb.distributed.Streaming(case.fragments)
        self._replicas = fb.distributed.Replicas(
            self.models, self.case.method, case.every, case.optimizer, key.fold("outer"), streaming
        )

    def exchange(self) -> None:
        if self._replicas.step():
            self.exchanges += 1
            self.silent += len(self._replicas.messages[0]) <= COEFFICIENT
        self.sent = self._replicas.sent_bytes[0]

    def values(self) -> dict[str, Tensor]:
        return self._replicas.values()

    def state_bytes(self) -> int:
        return stored(self._replicas.state_dicts()[0]["fragments"])

    def codec_seconds(self) -> float:
        return forecast_ranks(lambda: copy.deepcopy(self.shown), self.case.method, RANKS).codec_seconds


class RandomPartners(OuterSteps):
    """Outer steps with one random rank at a time. Evaluated is the mean of all models, sent once at the end."""

    def finish(self) -> None:
        self._replicas.average()
        self.sent = self._replicas.sent_bytes[0]

    def values(self) -> dict[str, Tensor]:
        return mean_of([self._replicas.values(rank) for rank in range(RANKS)])

    def state_bytes(self) -> int:
        state = self._replicas.state_dicts()[0]
        return stored({name: x for name, x in state.items() if name not in ("facts", "whose", "sums")})


class Gossip(Way):
    """A ring without a common model: each rank sends to its two neighbours. Evaluated is the mean of all models."""

    def __init__(self, case: Case, model: nn.Module, key: fb.Key) -> None:
        super().__init__(case, model, key)
        method, ring = gossip_method(case.method), fb.topology.ring(RANKS)
        self.nodes = [fb.learn.Node(model, method, ring, me, key.fold("outer")) for me, model in enumerate(self.models)]
        self._steps, self._seconds = 0, 0.0

    def exchange(self) -> None:
        self._steps += 1
        if self._steps % self.case.every:
            return
        began = time.process_time()
        frames = [node.step(lambda model: self.case.lr * self.case.every) for node in self.nodes]  # trained already
        for node in self.nodes:
            for j in node.expected:
                node.receive(j, frames[j])
            node.mix()
        self._seconds += time.process_time() - began
        self.exchanges += 1
        self.sent += len(frames[0]) * len(self.nodes[0].neighbours)

    def values(self) -> dict[str, Tensor]:
        return mean_of([model.state_dict() for model in self.models])

    def state_bytes(self) -> int:
        return stored({name: x for name, x in self.nodes[0].dump().items() if name != "vector.x"})  # x is the model

    def codec_seconds(self) -> float:
        return self._seconds / max(1, self.exchanges) / RANKS


WAYS = {"data parallel": DataParallel, "outer": OuterSteps, "partners": RandomPartners, "gossip": Gossip}


def mean_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def stored(state: object) -> int:
    """Bytes of all tensors and texts in a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, bytes | str):
        return len(state)
    if isinstance(state, Mapping):
        return sum(map(stored, state.values()))
    if isinstance(state, Sequence):
        return sum(map(stored, state))
    return 0


def optimizer_of(case: Case, model: nn.Module, lr: float, decay: float) -> Any:
    """AdamW; where gradients are sent, a step that leaves them as the model's change."""
    if case.gradients:
        return torch.optim.SGD(model.parameters(), lr=1.0)
    decay = 0.0 if case.inside else decay  # s = 0 is where the model began
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)
