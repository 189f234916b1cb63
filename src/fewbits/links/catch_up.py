"""CatchUp: the frames that bring one receiver to the newest version, and the choice of the shortest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fewbits.links.bundle import wrapped_bytes
from fewbits.links.personal_updates import HeldState


class CatchUp(NamedTuple):
    """Frames for one receiver, and what it holds after them."""

    frames: tuple[bytes, ...]
    after: HeldState  # what the receiver holds then
    exact: bool = True  # whether that is the public value

    @property
    def cost(self) -> tuple[int, bool, int]:
        """Bytes of the bundle. Ties: exact updates first, then the one with fewer frames."""
        return wrapped_bytes([len(frame) for frame in self.frames]), not self.exact, len(self.frames)


Candidate = tuple[int, Callable[[], CatchUp]]  # (a lower bound on the bundle's bytes, how to make it)


def shortest(candidates: Iterable[Candidate]) -> CatchUp | None:
    """The candidate of least cost; those whose lower bound is above the best so far are never made."""
    best: CatchUp | None = None
    for least, make in candidates:
        if best is None or least <= best.cost[0]:
            found = make()
            best = found if best is None or found.cost < best.cost else best
    return best
