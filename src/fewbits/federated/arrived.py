"""Arrived: one client's update as it waits for its place in a round's sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewbits.codecs import Partial
from fewbits.codecs.lifts.lift import Group
from fewbits.links.finite import reach


@dataclass(frozen=True)
class Arrived:
    """A decoded update: the parts of a message, or a plain vector in their place."""

    client: int | None  # None: it came without a link
    parts: tuple[Partial, ...]  # one per group of tensors
    weight: float
    reach: float  # no entry is larger
    subspace: int = 0
    plain: bool = False  # the parts are whole vectors, which went through no codec

    @staticmethod
    def plain_of(client: int | None, update: Mapping[str, Tensor], groups: Sequence[Group], weight: float) -> Arrived:
        """An update that went through no link."""
        parts = plain_parts(update, groups)
        return Arrived(client, parts, weight, max(map(reach, parts), default=0.0), plain=True)

    def copied(self) -> Arrived:
        """The same update; a frame's memory is used again after it was taken."""
        return replace(self, parts=tuple(map(_copied, self.parts)))

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(p.values.nbytes + (0 if p.support is None else p.support.nbytes) for p in self.parts)


def plain_parts(update: Mapping[str, Tensor], groups: Sequence[Group]) -> tuple[Partial, ...]:
    """Tensors in the tree's order, laid end to end by group."""
    leaves = [x.detach().reshape(-1).to("cpu", torch.float32) for x in update.values()]
    return tuple(Partial(torch.cat([torch.zeros(0), *(leaves[i] for i in g.members)])) for g in groups)


def _copied(part: Partial) -> Partial:
    support = None if part.support is None else part.support.clone()
    return Partial(part.values.clone(), support, part.scale, part.side)
