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

    def receiver_state(self, before: HeldState) -> ReceiverState | None:
        """What the receiver holds, rebuilt bit for bit; None when it cannot be rebuilt any more."""
        if not before.version:
            return None
        start = self.updates.blank() if before.alone else self._public_state(before.base, bool(before.frames))
        return None if start is None else self.updates.replay(before.frames, start)

    def candidates(self, before: HeldState, value: Any, version: int, seed: bytes | None) -> Iterator[Candidate]:
        """The difference to the public `value` of `version`; from zeros, when what is held cannot be rebuilt."""
        if before.version == version:
            return
        if before.frames:
            yield 0, lambda: self._difference(before, value, version, seed)
        elif not (seed and version == 1 and not before.base):
            if before.base not in self._made:
                self._made[before.base] = self._difference(before, value, version, seed)
            yield 0, lambda: self._made[before.base]

    def _difference(self, before: HeldState, value: Any, version: int, seed: bytes | None) -> CatchUp:
        first_contact = seed is not None and before == HeldState()
        prefix = (seed,) if first_contact and seed else ()
        if first_contact:  # the receiver makes version 1 itself, and the difference begins there
            before, state = HeldState(1), self._public_state(1, True)
        else:
            state = self.receiver_state(before)
        if state is None:
            before, state = HeldState(), self.updates.blank()
        frame = self.updates.encode(value, version, state, self._key)
        return CatchUp((*prefix, frame), HeldState(before.base, (*before.frames, frame)), exact=False)

    def compact(self, before: HeldState, value: Any) -> HeldState:
        """Frames that have grown longer than the value become one frame with the value itself."""
        if sum(map(len, before.frames)) <= sum(x.nbytes for _, x in named(value)) + HEADER_BYTES:
            return before
        state = self.receiver_state(before)
        return before if state is None else HeldState(0, (self.updates.store(state),))
