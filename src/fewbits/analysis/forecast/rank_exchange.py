"""One rank's work in an exchange, played with its own frames in place of the others'.

Time is that of this thread alone, since torch's other threads may spin while they wait. Call `play` with one thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn

from fewbits.links import Sender
from fewbits.replicas import DENSE, Replica, Terms
from fewbits.replicas.joined import joined
from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.slices import slices_of
from fewbits.replicas.vectors import named_views


class ExchangeBytes(NamedTuple):
    """What one exchange sends."""

    frame: int  # the last frame
    sent: int  # by a rank, to all its receivers
    messages: int  # that follow each other, announcements among them


class RankExchange(ABC):
    """Rank 0 among `ranks`, and processor seconds of its exchanges."""

    replica: Replica
    bytes: ExchangeBytes

    @abstractmethod
    def play(self) -> float:
        """One exchange after the module was changed; processor seconds."""


class FullExchange(RankExchange):
    """Frames go to all ranks."""

    def __init__(self, module: nn.Module, terms: Terms, ranks: int) -> None:
        self.replica, self._ranks = Replica(module, terms, 0, ranks), ranks

    def play(self) -> float:
        began, replica = time.thread_time(), self.replica
        message = replica.message(0)
        (frame,) = replica.frames(0, [message])
        messages = [message, *[frame] * (self._ranks - 1)]  # all links are at the same frame, so all take this one
        replica.outer[0].prepare(replica.frames(0, messages))()
        replica.settle(0, messages)
        self.bytes = ExchangeBytes(len(message), (self._ranks - 1) * len(message), 2)
        return time.thread_time() - began


class SlicedExchange(RankExchange):
    """Slices go to the ranks that take their means."""

    def __init__(self, module: nn.Module, terms: Terms, ranks: int) -> None:
        self.replica = self._sliced = SlicedReplica(module, terms, 0, ranks)
        self._ranks = ranks
        slices = slices_of(self.replica.outer[0].spec, ranks)[1:]
        self._others = [(part, Sender(DENSE, part, terms.key)) for part in slices]

    def play(self) -> float:
        began, replica = time.thread_time(), self._sliced
        parts, common = replica.parts(0), replica.outer[0].common
        messages = [replica.message_of(0, [parts[0]] * self._ranks)]
        first = time.thread_time() - began
        for part, sender in self._others:  # the work of other ranks
            zeros = torch.zeros(part.numel, dtype=replica.tensors.dtype)
            messages.append(joined(sender.pieces(named_views(zeros, part), common=common)))
            sender.commit()
        began = time.thread_time()
        replica.outer[0].prepare(replica.frames(0, messages))()
        replica.settle(0, messages)
        sent = sum(map(len, parts[1:])) + (self._ranks - 1) * len(messages[0])
        self.bytes = ExchangeBytes(len(messages[0]), sent, 4)
        return first + time.thread_time() - began


class PairExchange(RankExchange):
    """One frame goes to one rank, and one comes from it."""

    def __init__(self, module: nn.Module, terms: Terms, ranks: int) -> None:
        self.replica = self._pair = PairReplica(module, terms, 0, 2)

    def play(self) -> float:
        began = time.thread_time()
        message = self._pair.message()
        self._pair.prepare([message, message])
        self._pair.settle()
        self.bytes = ExchangeBytes(len(message), len(message), 3)
        return time.thread_time() - began
