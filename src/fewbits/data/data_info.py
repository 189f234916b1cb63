"""DataInfo: what is known of a data set before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataInfo:
    """Static description of a data set; a model can be built from it."""

    shape: tuple[int, ...]  # of one example: (channels, height, width), or (time,) for text
    classes: int  # number of classes, or of characters
    source: str  # what it is and where its files come from
