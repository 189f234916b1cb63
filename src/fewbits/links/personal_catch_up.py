"""PersonalCatchUps: what single receivers of a broadcast hold, and the lossy differences that lead on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fewbits.links.catch_up import Candidate, CatchUp
from fewbits.links.finite import named
from fewbits.links.personal_updates import HeldState, PersonalUpdates
from fewbits.links.receiver_state import ReceiverState
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES

# (public version, whether a receiver made it from a seed) -> what a receiver held then; None: it cannot be rebuilt
PublicState = Callable[[int, bool], ReceiverState | None]


class PersonalCatchUps:
    """The differences of one broadcast for its receivers one by one."""

    def __init__(self, updates: PersonalUpdates, public_state: PublicState, key: Key) -> None:
        self.updates, self._public_state, self._key = updates, public_state, key
        self._made: dict[int, CatchUp] = {}  # to the newest version, by the public version that they begin from

    def clear(self) -> None:
        """Forget differences to a version that is no longer the newest."""
        self._made.clear()

    def receiver_state(self, held: HeldState) -> ReceiverState | None:
        """What the receiver holds, rebuilt bit for bit; None when it cannot be rebuilt any more."""
        if not held.version:
            return None
        start = self.updates.blank() if held.alone else self._public_state(held.base, bool(held.frames))
        return None if start is None else self.updates.replay(held.frames, start)

    def candidates(self, held: HeldState, value: Any, version: int, seed: bytes | None) -> Iterator[Candidate]:
        """The difference to the public `value` of `version`; from zeros, when what is held cannot be rebuilt."""
        if held.version == version:
            return
        if held.frames:
            yield 0, lambda: self._difference(held, value, version, seed)
        elif not (seed and version == 1 and not held.base):
            if held.base not in self._made:
                self._made[held.base] = self._difference(held, value, version, seed)
            yield 0, lambda: self._made[held.base]

    def _difference(self, held: HeldState, value: Any, version: int, seed: bytes | None) -> CatchUp:
        first_contact = seed is not None and held == HeldState()
        prefix = (seed,) if first_contact and seed else ()
        if first_contact:  # the receiver makes version 1 itself, and the difference begins there
            held, state = HeldState(1), self._public_state(1, True)
        else:
            state = self.receiver_state(held)
        if state is None:
            held, state = HeldState(), self.updates.blank()
        frame = self.updates.encode(value, version, state, self._key)
        return CatchUp((*prefix, frame), HeldState(held.base, (*held.frames, frame)), exact=False)

    def compact(self, held: HeldState, value: Any) -> HeldState:
        """Frames that have grown longer than the value become one frame with the value itself."""
        if sum(map(len, held.frames)) <= sum(x.nbytes for _, x in named(value)) + HEADER_BYTES:
            return held
        state = self.receiver_state(held)
        return held if state is None else HeldState(0, (self.updates.store(state),))
