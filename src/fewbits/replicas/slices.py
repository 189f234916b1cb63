"""Slices: each rank takes the mean of one part of the vector, and sends it to all; two legs, as in a ring."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from fewbits.links import Receiver, Sender
from fewbits.links.bundle import pack, unpack
from fewbits.replicas.from_rank import from_rank
from fewbits.replicas.joined import Room, joined
from fewbits.replicas.loaded_ends import loaded_ends
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.terms import DENSE
from fewbits.replicas.vectors import named_views
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Section


def slices_of(spec: TreeSpec, size: int) -> list[TreeSpec]:
    """The tree laid end to end and cut into `size` parts of about equal length; a tensor may be in several.

    >>> tree = TreeSpec((("a", Spec((2, 2))), ("b", Spec((3,)))))
    >>> [[(name, leaf.shape) for name, leaf in part] for part in slices_of(tree, 2)]
    [[('a', (3,))], [('a', (1,)), ('b', (3,))]]
    """
    bounds = [spec.numel * i // size for i in range(size + 1)]
    found: list[list[tuple[str, Spec]]] = [[] for _ in range(size)]
    begin = 0
    for name, leaf in spec:
        for part, (start, stop) in zip(found, pairwise(bounds), strict=True):
            if (length := min(stop, begin + leaf.numel) - max(start, begin)) > 0:
                part.append((name, Spec((length,), leaf.dtype)))
        begin += leaf.numel
    return [TreeSpec(tuple(part)) for part in found]


class SliceLink:
    """The receiving ends of the second leg, the same at all ranks: the mean of slice s comes from rank s.

    Args:
        spec: names and shapes of the values.
        size: how many ranks there are.
    """

    def __init__(self, spec: TreeSpec, size: int) -> None:
        self.spec, self.slices = spec, slices_of(spec, size)
        self.receivers = [Receiver(DENSE, part) for part in self.slices]
        self._after: list[Receiver] = []

    def means(self, frames: Sequence[bytes | memoryview], common: Key) -> list[Tensor]:
        """The mean in one frame of each rank, which lies there, end to end; the ends move when `commit` is called.

        Raises:
            WireError: a frame is damaged or not the next one of its link; the text names its rank.
        """
        after, found = [copy.copy(receiver) for receiver in self.receivers], list[Tensor]()
        for rank, (receiver, frame) in enumerate(zip(after, frames, strict=True)):
            with from_rank(rank):
                (partial,) = receiver.receive_partial(frame, common)
            found.append(partial.values)
        self._after = after
        return found

    def commit(self) -> None:
        """The last mean counts."""
        self.receivers = self._after

    def dump(self) -> list[bytes]:
        """The ends of all ranks as bytes."""
        return [receiver.dump() for receiver in self.receivers]

    def load(self, ends: Sequence[bytes]) -> None:
        """Take over the ends that were dumped; WireError when they are damaged or of another model."""
        self.receivers = loaded_ends(self.receivers, ends, "links")


class SliceEnds:
    """One rank's ends of both legs, except those of `SliceLink`; it stands where a `Sender` stands.

    Args:
        spec: names and shapes of the values.
        rank: 0 to size - 1; this rank takes the mean of the slice of that number.
        size: how many ranks there are.
        key: of this rank.
    """

    def __init__(self, spec: TreeSpec, rank: int, size: int, key: Key) -> None:
        self.slices, self._dtype = slices_of(spec, size), spec.entries[0][1].torch_dtype
        self._to = [Sender(DENSE, part, key.fold("slice", i)) for i, part in enumerate(self.slices)]
        self._mean = MeanLink(DENSE, self.slices[rank], size)
        self._out = Sender(DENSE, self.slices[rank], key.fold("mean"))
        self.sent: list[int] = []  # lengths of the last parts, by the rank that they went to
        self.received: list[int] = []  # and by the rank that they came from

    def parts(self, fill: Callable[[Sequence[Tensor]], object], common: Key) -> list[memoryview]:
        """The first leg: a frame for each rank, with its slice; `fill` computes all slices in memory that it is given.

        Raises:
            LocalError: naming a tensor that is not finite.
        """
        found: list[memoryview] = []
        rooms = [Room(part.numel, self._dtype) for part in self.slices]
        fill([room.values for room in rooms])
        for sender, part, room in zip(self._to, self.slices, rooms, strict=True):
            found.append(joined(sender.pieces(named_views(room.values, part), common=common), room))
        self.sent = [len(frame) for frame in found]
        return found

    def mean_pieces(self, parts: Sequence[bytes | memoryview], common: Key) -> list[bytes | memoryview]:
        """The second leg: pieces of the frame with the mean of this rank's slice, from what each rank sent of it."""
        self.received = [len(frame) for frame in parts]
        return self._out.pieces(self._mean.mean(parts, common), common=common)

    @property
    def pending(self) -> bool:
        """Whether a frame is neither committed nor rolled back."""
        return any(sender.pending for sender in (*self._to, self._out))

    @property
    def sections(self) -> list[Section]:
        """Of the payload of the last frame with a mean."""
        return self._out.sections

    def commit(self) -> None:
        """All ranks have all frames."""
        self._mean.commit()
        for sender in (*self._to, self._out):
            sender.commit()

    def rollback(self) -> None:
        """No frame counts."""
        for sender in (*self._to, self._out):
            if sender.pending:
                sender.rollback()

    def dump(self) -> bytes:
        """These ends as bytes; nothing may be pending."""
        return pack([sender.dump() for sender in (*self._to, self._out)] + self._mean.dump())

    def load(self, data: bytes) -> None:
        """Become the ends that were dumped; WireError when the bytes are damaged or another model's."""
        senders = [*self._to, self._out]
        ends = unpack(data)
        *self._to, self._out = loaded_ends(senders, ends[: len(senders)], "links")
        self._mean = copy.copy(self._mean)
        self._mean.load(ends[len(senders) :])
