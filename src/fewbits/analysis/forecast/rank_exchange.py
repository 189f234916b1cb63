"""One rank's work in an exchange, played with its own frames in place of the others'.

Few ranks are played, and more are reckoned: what each of them adds to a rank's work is a frame to read, or its share of
the frames of slices. Time is that of this thread alone, since torch's other threads may spin while they wait. Call
`play` with one thread.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn

from fewbits.codecs import TreeTotal
from fewbits.links import Sender
from fewbits.replicas import DENSE, MeanLink, Replica, Terms
from fewbits.replicas.joined import joined
from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.slices import slices_of
from fewbits.replicas.vectors import named_views
from fewbits.wire.frame import HEADER_BYTES

PLAYED = 8  # ranks at most
EMPTY = 64  # ranks whose slices are almost all empty: what frames take beside their numbers


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
        self._ranks, self._played = ranks, min(ranks, PLAYED)
        self.replica = Replica(module, terms, 0, self._played)

    def play(self) -> float:
        began, replica = time.thread_time(), self.replica
        message = replica.message(0)
        (frame,) = replica.frames(0, [message])
        messages = [message, *[frame] * (self._played - 1)]  # all links are at the same frame, so all take this one
        take = replica.outer[0].prepare(replica.frames(0, messages))
        seconds = time.thread_time() - began
        if self._ranks > self._played:
            seconds += (self._ranks - self._played) * self._reading(frame)
        began = time.thread_time()
        take()
        replica.settle(0, messages)
        self.bytes = ExchangeBytes(len(message), (self._ranks - 1) * len(message), 2)
        return seconds + time.thread_time() - began

    def _reading(self, frame: memoryview) -> float:
        """Seconds for one more frame."""
        part = self.replica.outer[0]
        assert isinstance(part.link, MeanLink)
        total, seconds = TreeTotal(part.codec, part.spec), 0.0
        for receiver in map(copy.copy, part.link.receivers[:2]):  # the first one takes the total's memory, too
            began = time.thread_time()
            total.add(receiver.receive_partial(frame, part.common), 1.0)
            seconds = time.thread_time() - began
        return seconds


class SlicedExchange(RankExchange):
    """Slices go to the ranks that take their means."""

    def __init__(self, module: nn.Module, terms: Terms, ranks: int, most: int = PLAYED) -> None:
        self._ranks, self._played = ranks, min(ranks, most)
        self.replica = self._sliced = SlicedReplica(module, terms, 0, self._played)
        slices = slices_of(self.replica.outer[0].spec, self._played)[1:]
        self._others = [(part, Sender(DENSE, part, terms.key)) for part in slices]
        self._empty = SlicedExchange(nn.Linear(1, 1), terms, EMPTY, EMPTY) if ranks > self._played else None
        self.bytes = self._bytes()

    def play(self) -> float:
        began, replica = time.thread_time(), self._sliced
        parts, common = replica.parts(0), replica.outer[0].common
        messages = [replica.message_of(0, [parts[0]] * self._played)]
        seconds = time.thread_time() - began
        for part, sender in self._others:  # the work of other ranks
            zeros = torch.zeros(part.numel, dtype=replica.tensors.dtype)
            messages.append(joined(sender.pieces(named_views(zeros, part), common=common)))
            sender.commit()
        began = time.thread_time()
        replica.outer[0].prepare(replica.frames(0, messages))()
        replica.settle(0, messages)
        seconds += time.thread_time() - began
        if self._empty is not None:  # the same numbers in more frames
            seconds += (self._ranks - self._played) * self._empty.play() / EMPTY
        return seconds

    def _bytes(self) -> ExchangeBytes:
        """Each other rank gets its slice, and the mean of this one's, beside which rank 0 has buffers of integers."""
        tensors, others = self.replica.tensors, self._ranks - 1
        numel, width = self.replica.outer[0].spec.numel, tensors.dtype.itemsize
        mine = numel // self._ranks
        frame = HEADER_BYTES + mine * width + tensors.whole_bytes
        return ExchangeBytes(frame, others * (HEADER_BYTES + frame) + (numel - mine) * width, 4)


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
