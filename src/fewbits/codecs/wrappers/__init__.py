"""Wrappers: codecs with memory around a codec. `Wrapper` is the base of each; the rest is what a new one needs."""

from fewbits.codecs.base import wide
from fewbits.codecs.wrappers.wrapper import Wrapper, read_vector, write_vector

__all__ = ["Wrapper", "read_vector", "wide", "write_vector"]
