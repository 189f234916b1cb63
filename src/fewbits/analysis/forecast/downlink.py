"""How long the frames are that bring a client up to date: the rules of the publishers, without the frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import Broadcast, EpochBroadcast, Publisher, StartedBroadcast
from fewbits.links.bundle import wrapped_bytes


class Downlink(ABC):
    """A rule for lengths. Version 1 is the initial model; round r uses version r."""

    exact: ClassVar[bool] = True  # lengths do not depend on the updates

    @abstractmethod
    def frames(self, before: int | None, now: int) -> list[int]:
        """Lengths of the frames that bring a client from version `before` (None: new) to `now`, bytes."""

    def bundle(self, before: int | None, now: int) -> int:
        """Length of those frames as one message."""
        return wrapped_bytes(self.frames(before, now))


@dataclass(frozen=True)
class Whole(Downlink):
    """The whole model every time, except for buffers that are as they were at first."""

    model: int  # bytes of its frame; of a later version all numbers of buffers have changed
    first: int  # of version 1
    seed: int | None = None  # of the frame that stands for version 1 at first contact

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model == self.first  # else a buffer may be a constant

    def frames(self, before: int | None, now: int) -> list[int]:
        """Lengths: one frame."""
        if before or now > 1:
            return [self.model]
        return [self.first if self.seed is None else self.seed]


@dataclass(frozen=True)
class Entries(Downlink):
    """Differences, or a snapshot when that is shorter. Patches are not estimated; they may be shorter than both."""

    snapshot: int  # bytes of its frame
    entry: int  # bytes of the frame of a difference; all are assumed to be equal
    keep: int  # differences in the log
    seed: int | None = None  # as of `Whole`

    exact: ClassVar[bool] = False

    def frames(self, before: int | None, now: int) -> list[int]:
        """All missed differences, or the snapshot."""
        seed = [self.seed] if self.seed is not None and not before else []
        missed = now - (before or len(seed))
        if not (before or seed) or missed > self.keep or sum(seed) + missed * self.entry > self.snapshot:
            return [self.snapshot]
        return seed + [self.entry] * missed


@dataclass(frozen=True)
class Epochs(Downlink):
    """s, with the finals of missed epochs, or with theta_e when that is shorter."""

    whole: int  # bytes of theta_e's frame
    s: int  # of s, and of a final
    space: IntrinsicSpace
    keep: int  # finals in the log
    seed: int | None = None  # as of `Whole`, for theta_0

    def frames(self, before: int | None, now: int) -> list[int]:
        """Finals and s, or theta_e and s."""
        seed = [self.seed] if self.seed is not None and not before else []
        finals = self.space.epoch_of(now) - self.space.epoch_of(before or 1)
        if not (before or seed) or finals > self.keep or sum(seed) + finals * self.s > self.whole:
            return [self.whole, self.s]
        return seed + [self.s] * (finals + 1)


@dataclass(frozen=True)
class Started(Downlink):
    """The start at first contact, before the frames of another rule: theta0 of a subspace, and buffers."""

    start: int  # bytes of its frame
    value: Downlink

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.value.exact

    def frames(self, before: int | None, now: int) -> list[int]:
        return [*([] if before else [self.start]), *self.value.frames(before, now)]


def downlink(publisher: Publisher, space: IntrinsicSpace | None) -> Downlink:
    """The lengths of real frames, of a publisher that has published a difference if it sends differences."""
    found = _of_value(publisher, space)
    return Started(len(publisher.start_frame), found) if isinstance(publisher, StartedBroadcast) else found


def _of_value(publisher: Publisher, space: IntrinsicSpace | None) -> Downlink:
    seed = None if publisher.seed_frame is None else len(publisher.seed_frame)
    snapshot = publisher.snapshot_bytes
    if space is not None:
        assert isinstance(publisher, EpochBroadcast)
        return Epochs(snapshot, len(publisher.longest_entry), space, publisher.keep, seed)
    if not publisher.differential:
        assert isinstance(publisher, Broadcast)
        return Whole(len(publisher.longest_entry), snapshot, seed)
    return Entries(snapshot, len(publisher.entry), publisher.keep, seed)
