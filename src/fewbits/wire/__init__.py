"""Floor 1: bits out, bits in, and the frame around them."""

from fewbits.wire.frame import Frame, Header
from fewbits.wire.reader import BitReader
from fewbits.wire.writer import BitWriter, Section

__all__ = ["BitReader", "BitWriter", "Frame", "Header", "Section"]
