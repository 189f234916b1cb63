"""Random bases: tall D x d matrices that everybody draws from a key and nobody stores, and their adjoints."""

from fewbits.codecs.transforms.bases.basis import KINDS, SCALES, Basis

__all__ = ["KINDS", "SCALES", "Basis"]
