"""Outline: what a model must know of a data set, without its data."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.data.images import SETS
from fewbits.data.load import NAMES
from fewbits.data.shakespeare import WINDOW
from fewbits.errors import LocalError


@dataclass(frozen=True)
class Outline:
    """As `Data` has them."""

    shape: tuple[int, ...]  # of one example: (channels, height, width) or (time,)
    classes: int  # or characters


def data_info(name: str) -> Outline:
    """The outline of a data set of `NAMES`; nothing is read. shakespeare: the 65 characters of tinyshakespeare.

    >>> data_info("mnist")
    Outline(shape=(1, 28, 28), classes=10)
    """
    if name in SETS:
        height, width, channels = SETS[name][1]
        return Outline((channels, height, width), 10)
    known = {"digits": Outline((1, 8, 8), 10), "shakespeare": Outline((WINDOW,), 65)}
    if name not in known:
        raise LocalError(f"outline: expected a data set among {', '.join(NAMES)}; got {name!r}")
    return known[name]
