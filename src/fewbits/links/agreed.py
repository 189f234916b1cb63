"""Agreed: a state that the ends of a link know before its first frame."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from fewbits.codecs import Lift
from fewbits.links.identity import first_history
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitWriter


class Agreed(NamedTuple):
    """What such ends begin with, and begin with again at every key frame.

    Ends that do not agree on the state refuse each other's key frames by the history.
    """

    state: Any
    history: int

    @staticmethod
    def of(codec: Lift, spec: Spec | TreeSpec, state: Any) -> Agreed:
        """The history is a digest of the state, and of codec and spec."""
        out = BitWriter()
        codec.write_state(state, spec, out)
        text = first_history(codec, spec).to_bytes(3, "big") + out.finish()
        found = hashlib.blake2b(text, digest_size=3, person=b"fewbits.history").digest()
        return Agreed(state, int.from_bytes(found, "big"))
