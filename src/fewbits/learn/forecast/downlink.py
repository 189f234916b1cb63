"""What a client gets that was away, in lengths: the rules of `Broadcast` and `EpochBroadcast` without the frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fewbits.learn.space import Space
from fewbits.link import Broadcast
from fewbits.link.broadcast import packed_bytes
from fewbits.link.epochs import EpochBroadcast


class Downlink(ABC):
    """Versions count from 1, the initial model; round r is played with version r."""

    exact: ClassVar[bool] = True  # lengths do not depend on the updates

    @abstractmethod
    def frames(self, before: int | None, now: int) -> list[int]:
        """Lengths of the frames that bring a client from version `before` (None: new) to `now`, bytes."""

    def bundle(self, before: int | None, now: int) -> int:
        """Length of those frames as one message."""
        return packed_bytes(self.frames(before, now))


@dataclass(frozen=True)
class Whole(Downlink):
    """The whole model every time."""

    model: int  # bytes of its frame

    def frames(self, before: int | None, now: int) -> list[int]:
        """One."""
        return [self.model]


@dataclass(frozen=True)
class Entries(Downlink):
    """Differences, or a snapshot when that is shorter."""

    snapshot: int  # bytes of its frame
    entry: int  # bytes of a difference's; all are taken to be alike
    keep: int  # differences in the log

    exact: ClassVar[bool] = False

    def frames(self, before: int | None, now: int) -> list[int]:
        """All that were missed, or the snapshot."""
        missed = now - (before or 0)
        if not before or missed > self.keep or missed * self.entry > self.snapshot:
            return [self.snapshot]
        return [self.entry] * missed


@dataclass(frozen=True)
class Epochs(Downlink):
    """s, and the finals of epochs that ended meanwhile, or theta_e when that is shorter."""

    whole: int  # bytes of theta_e's frame
    s: int  # of s, and of a final
    space: Space
    keep: int  # finals in the log

    def frames(self, before: int | None, now: int) -> list[int]:
        """Finals and s, or theta_e and s."""
        finals = self.space.epoch_of(now) - self.space.epoch_of(before) if before else 0
        if not before or finals > self.keep or finals * self.s > self.whole:
            return [self.whole, self.s]
        return [self.s] * (finals + 1)


def downlink(broadcast: Broadcast | EpochBroadcast, space: Space | None) -> Downlink:
    """By real frames of a broadcast that has published at least one difference, where it sends differences."""
    if isinstance(broadcast, EpochBroadcast):
        assert space is not None
        whole, s = map(len, broadcast.frames(None))
        return Epochs(whole, s, space, broadcast.keep)
    first = len(broadcast.frames(None)[0])
    if broadcast.codec.stateless:
        return Whole(first)
    return Entries(first, len(broadcast.entry), broadcast.keep)
