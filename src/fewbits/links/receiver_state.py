"""ReceiverState: what one receiver of a broadcast holds."""

from __future__ import annotations

from typing import Any, NamedTuple


class ReceiverState(NamedTuple):
    """A value and what its next difference is taken to; replaced, never written to."""

    value: Any  # a tensor or a dict of them; None: nothing yet
    version: int  # the public one it is, or, on its own track, stands for; 0: nothing
    history: int  # digest of the frames that led here
    state: Any  # of the public codec, or of the receiver's own
    own: bool = False  # a value that only this receiver holds, made by lossy frames for it alone
