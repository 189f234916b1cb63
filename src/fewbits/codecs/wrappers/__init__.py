"""Wrappers: codecs with memory around a codec."""
