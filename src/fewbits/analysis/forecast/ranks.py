"""What an exchange among the ranks of one model takes on a line of given speed, from frames that are really encoded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fewbits.errors import LocalError
from fewbits.learn.optimizers import ServerSGD
from fewbits.replicas import AnyMethod, Replica, Terms
from fewbits.rng import Key

TRIES = 3  # frames of each method; the median time counts
ALL_REDUCE = "all-reduce of float32"


@dataclass(frozen=True)
class RankLine:
    """Every rank's line to the others, the same both ways.

    Args:
        bits_per_second: above 0.
        latency: seconds for a bit to arrive, one way.
    """

    bits_per_second: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.bits_per_second < math.inf and 0 <= self.latency < math.inf):
            raise LocalError(f"a line has a bandwidth above 0 and a latency of 0 or more; got {self}")


@dataclass(frozen=True)
class RankForecast:
    """One exchange by one method.

    Args:
        method: its text.
        frame_bytes: of one message; 0 for an all-reduce, which has none.
        sent_bytes: what each rank sends, to all its receivers.
        messages: how many must follow each other, each of them late by the latency.
        codec_seconds: to encode one frame and decode those of all ranks, on one core.
    """

    method: str
    frame_bytes: int
    sent_bytes: float
    messages: int
    codec_seconds: float = 0.0

    def exchange_seconds(self, line: RankLine) -> float:
        """Of one exchange: ``messages * latency + 8 sent_bytes / bandwidth + codec_seconds``."""
        return self.messages * line.latency + 8 * self.sent_bytes / line.bits_per_second + self.codec_seconds

    def seconds(self, line: RankLine, every: int, compute: float) -> float:
        """Of `every` steps of `compute` seconds and one exchange; an all-reduce follows every step."""
        exchanges = every if self.method == ALL_REDUCE else 1
        return every * compute + exchanges * self.exchange_seconds(line)

    def share(self, line: RankLine, every: int, compute: float) -> float:
        """The share of the time that computes, in (0, 1]."""
        return every * compute / self.seconds(line, every, compute)

    def least_every(self, line: RankLine, compute: float, share: float = 0.9) -> int:
        """The fewest steps between two exchanges with which this share of the time computes."""
        steps = share / (1 - share) * self.exchange_seconds(line) / compute
        return max(1, math.ceil(round(steps, 9)))  # 0.9 / 0.1 is a little more than 9


def all_reduce(numel: int, ranks: int) -> RankForecast:
    """A ring all-reduce of so many float32 numbers: 2 (R - 1) messages of 4 numel / R bytes.

    >>> all_reduce(1000, 4).sent_bytes
    6000.0
    """
    return RankForecast(ALL_REDUCE, 0, 2 * (ranks - 1) / ranks * 4 * numel, 2 * (ranks - 1))


def forecast_ranks(make: Callable[[], nn.Module], method: AnyMethod, ranks: int, key: Key = Key(0)) -> RankForecast:
    """Encode and decode frames of Gaussian updates of the model's shapes, and take their length and time.

    The length is the last frame's, so that the state of a codec has settled. A frame and its announcement follow each
    other, so the latency counts twice.

    Raises:
        LocalError: the method does not fit, as for `OuterStep`.
    """
    module = make()
    replica = Replica(module, Terms.of(method, ServerSGD(), 1, key=key), 0, 1)
    generator, times, length = key.fold("forecast").generator(), [], 0
    for _ in range(TRIES):
        with torch.no_grad():
            for p in replica.tensors.now().trained.values():
                p.add_(0.01 * torch.randn(p.shape, generator=generator).to(p))
        began = time.process_time()
        message = replica.message(0)
        encoded = time.process_time()
        replica.outer[0].apply(replica.frames(0, [message]))
        times.append(encoded - began + ranks * (time.process_time() - encoded))
        replica.settle(0, [message])
        length = len(message)
    return RankForecast(str(method), length, (ranks - 1) * length, 2, sorted(times)[TRIES // 2])
