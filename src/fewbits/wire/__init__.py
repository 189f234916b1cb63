"""Bit-level writing and reading, and the frame around a payload."""

from fewbits.wire.frame import Frame, Header
from fewbits.wire.passage import Passage
from fewbits.wire.reader import BitReader
from fewbits.wire.writer import BitWriter, Section

__all__ = ["BitReader", "BitWriter", "Frame", "Header", "Passage", "Section"]
