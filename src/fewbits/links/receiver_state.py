"""ReceiverState: what one receiver of a broadcast holds."""

from __future__ import annotations

from typing import Any, NamedTuple


class ReceiverState(NamedTuple):
    """A value, and the state that the next difference is added to. It is replaced, never written to."""

    value: Any  # a tensor or a dict of them; None: nothing yet
    version: int  # of the public value that it is, or that a personal value stands for; 0: nothing
    history: int  # digest of the frames that led here
    state: Any  # of the public codec, or of the one for personal updates
    personal: bool = False  # whether lossy frames for this receiver alone made the value
