"""What an exchange among the ranks of one model takes on a line of given speed, from frames that are really encoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fewbits.analysis.forecast.rank_exchange import FullExchange, PairExchange, SlicedExchange
from fewbits.analysis.forecast.tcp import tcp_seconds
from fewbits.checks import check_number
from fewbits.errors import LocalError
from fewbits.learn.one_thread import one_thread
from fewbits.learn.optimizers import ServerSGD
from fewbits.replicas import AnyMethod, Terms
from fewbits.rng import Key

TRIES = 5  # exchanges of each method; the median time counts
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
        codec_seconds: of the processor, for a rank's own work: update, frame, the frames of all ranks, step, model.
        transport_seconds: of the processor, to send and to receive the bytes over TCP.
        ranks_per_core: how many ranks share a core; 1 or less: each has one.
    """

    method: str
    frame_bytes: int
    sent_bytes: float
    messages: int
    codec_seconds: float = 0.0
    transport_seconds: float = 0.0
    ranks_per_core: float = 1.0

    def exchange_seconds(self, line: RankLine) -> float:
        """Of one exchange: latency, bytes and the processor's work, one after the other.

        ``messages * latency + 8 sent_bytes / bandwidth + ranks_per_core * (codec_seconds + transport_seconds)``
        """
        work = max(1.0, self.ranks_per_core) * (self.codec_seconds + self.transport_seconds)
        return self.messages * line.latency + 8 * self.sent_bytes / line.bits_per_second + work

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


def forecast_ranks(
    make: Callable[[], nn.Module], method: AnyMethod, ranks: int, key: Key = Key(0), ranks_per_core: float = 1.0
) -> RankForecast:
    """Play exchanges of one rank with Gaussian updates of the model's shapes, and take their bytes and its work.

    Every other rank is given the frame of this one, so all that a rank does is really done: the update, its frame, the
    frames of all ranks, the step, the model. Of more than 8 ranks 8 are played; each further one adds the time that
    one more frame takes. Length and time are those of the last frame and of the median, so that the
    state of a codec has settled. A frame and its announcement follow each other, so the latency counts twice, and four
    times where slices travel in two legs.

    Args:
        make: gives a new model.
        method: as for `OuterStep`.
        ranks: how many there are, 2 or more.
        key: of the updates.
        ranks_per_core: how many ranks share a core of a machine such as this one.

    Raises:
        LocalError: the method does not fit, as for `OuterStep`.
    """
    check_number("forecast: ranks_per_core", ranks_per_core, "(0, inf)")
    module, terms = make(), Terms.of(method, ServerSGD(), 1, key=key)
    kind = SlicedExchange if terms.sliced(ranks) else PairExchange if terms.partner else FullExchange
    one, generator, times = kind(module, terms, ranks), key.fold("forecast").generator(), []
    for _ in range(TRIES):
        with torch.no_grad():
            for p in one.replica.tensors.now().trained.values():
                p.add_(0.01 * torch.randn(p.shape, generator=generator).to(p))
        with one_thread():
            times.append(one.play())
    frame, sent, messages = one.bytes
    work = sorted(times)[TRIES // 2]
    return RankForecast(str(method), frame, sent, messages, work, tcp_seconds(sent), ranks_per_core)
