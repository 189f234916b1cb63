"""MeanLink: the frames of all ranks become their mean, the same bits at every rank."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from fewbits.codecs import Lift, TreeTotal
from fewbits.codecs.flat_view import flat_view
from fewbits.learn.one_thread import one_thread
from fewbits.links import Receiver
from fewbits.replicas.from_rank import from_rank
from fewbits.replicas.loaded_ends import loaded_ends
from fewbits.replicas.vectors import end_to_end
from fewbits.rng import Key
from fewbits.spec import TreeSpec


class MeanLink:
    """The receiving ends of all ranks' links, this rank's own among them.

    ``u = (u_0 + u_1 + ... + u_{R-1}) / R``, added in this order in float32, with one thread. So the mean depends on
    the frames alone, and on no rank's own numbers. A ring's sum is not so: its order differs from entry to entry.

    Args:
        codec: of the frames.
        spec: names and shapes of the values.
        size: how many ranks there are.

    Raises:
        LocalError: the codec does not fit the spec.
    """

    def __init__(self, codec: Lift, spec: TreeSpec, size: int) -> None:
        self.codec, self.spec, self.ranks = codec, spec, tuple(range(size))
        self.receivers = [Receiver(codec, spec) for _ in self.ranks]
        self._after: list[Receiver] = []

    def mean(self, frames: Sequence[bytes | memoryview], common: Key) -> dict[str, Tensor]:
        """The mean of the values in one frame of each rank, by name; `common` is what the frames were made with.

        The links move when `commit` is called.

        Raises:
            WireError: a frame is damaged or not the next one of its link; the text names its rank.
        """
        after, total = [copy.copy(receiver) for receiver in self.receivers], TreeTotal(self.codec, self.spec)
        with one_thread():
            for rank, receiver, frame in zip(self.ranks, after, frames, strict=True):
                with from_rank(rank):
                    total.add(receiver.receive_partial(frame, common), 1.0)
            found: dict[str, Tensor] = total.value()
            for x in _vectors(found):
                x.div_(len(after))
        self._after = after
        return found

    def means(self, frames: Sequence[bytes | memoryview], common: Key) -> list[Tensor]:
        """As `mean`, end to end."""
        return [end_to_end(self.mean(frames, common))]

    def commit(self) -> None:
        """The last mean counts."""
        self.receivers = self._after

    def regroup(self, ranks: Sequence[int], joined: Collection[int] = ()) -> None:
        """Go on among these ranks, in this order; links of those that joined begin, of those that left end."""
        known = dict(zip(self.ranks, self.receivers, strict=True))
        fresh = [Receiver(self.codec, self.spec) if rank in joined else known[rank] for rank in ranks]
        self.ranks, self.receivers = tuple(ranks), fresh

    def dump(self) -> list[bytes]:
        """The ends of all ranks as bytes."""
        return [receiver.dump() for receiver in self.receivers]

    def load(self, ends: Sequence[bytes]) -> None:
        """Take over the ends that were dumped; WireError when they are damaged or another codec's."""
        self.receivers = loaded_ends(self.receivers, ends, "ranks")


def _vectors(found: dict[str, Tensor]) -> list[Any]:
    """The tensors as one vector, where they lie end to end."""
    whole = flat_view(found.values())
    return list(found.values()) if whole is None else [whole]
