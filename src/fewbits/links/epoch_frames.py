"""EpochFrames: what the frames of a model in random subspaces hold, and how they move it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewbits.codecs import Lift, Raw, Threshold, chain, flat, route
from fewbits.errors import LocalError
from fewbits.links.identity import SEED, codec_hash
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

WHOLE, FINAL, NOW = "theta_e", "final", "s"  # kinds of frames, by the name of their first tensor
PLAIN = "plain"  # the other tensor of a final and of s, where something moves outside of the subspace
RAW: Lift = flat(chain(Raw()))
MOVED: Lift = route([(PLAIN, chain(Threshold(0.0))), ("*", chain(Raw()))])  # of what did not move, nothing is sent


class EpochSpace(Protocol):
    """The subspaces that a model moves in."""

    @property
    def numel(self) -> int:
        """Numbers in s."""
        ...

    def epoch_of(self, version: int) -> int:
        """The epoch of a version: 0 for version 1, and never lower than that of the version before."""
        ...

    def expand(self, size: int, epoch: int, s: Tensor) -> Tensor:
        """A_e s.  # (numel,) -> (size,)"""
        ...


@dataclass(frozen=True, eq=False)
class EpochFrames:
    """theta is one vector: numbers that the subspace moves, then `plain` numbers that move by themselves.

    Args:
        space: says which epoch a version is in, and expands s.
        size: D, all numbers of theta.
        plain: how many of them, at its end, are outside of the subspace.

    Raises:
        LocalError: plain is negative or more than D.
    """

    space: EpochSpace
    size: int
    plain: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.plain <= self.size:
            raise LocalError(
                f"EpochBroadcast: plain must be from 0 to {self.size}, the numbers of theta; got {self.plain}"
            )

    def codec(self, name: str) -> Lift:
        """Of a kind of frame."""
        return MOVED if self.plain and name != WHOLE else RAW

    def spec(self, name: str) -> TreeSpec:
        """Of a kind of frame."""
        first = (name, Spec((self.size if name == WHOLE else self.space.numel,)))
        return TreeSpec((first, (PLAIN, Spec((self.plain,)))) if self.plain and name != WHOLE else (first,))

    def names(self) -> dict[int, str]:
        """The kinds of frames by their codecs' hashes, and SEED."""
        found = {codec_hash(self.codec(name), self.spec(name)): name for name in (WHOLE, FINAL, NOW)}
        return found | {codec_hash(RAW, self.spec(WHOLE), SEED): SEED}

    def sender(self, name: str, key: Key) -> Sender:
        """A sending end for one kind of frame."""
        return Sender(self.codec(name), self.spec(name), key)

    def read(self, name: str, frame: bytes) -> dict[str, Tensor]:
        """The tensors of a frame of this kind."""
        return Receiver(self.codec(name), self.spec(name)).receive(frame)

    def away(self, base: Tensor, plain: Tensor | None) -> dict[str, Tensor]:
        """How far these plain numbers are from theta_e's, as frames hold it; None: not at all.  # (plain,)"""
        if not self.plain:
            return {}
        return {PLAIN: torch.zeros(self.plain) if plain is None else plain - base[-self.plain :]}

    def moved(self, base: Tensor, epoch: int, values: Mapping[str, Tensor]) -> Tensor:
        """theta_e + A_e s, and what the plain numbers have become, by the tensors of a frame.  # (D,)"""
        s, *plain = values.values()
        rest = self.size - self.plain
        inside = base[:rest] + self.space.expand(rest, epoch, s)
        return torch.cat([inside, base[rest:] + plain[0]]) if plain else inside
