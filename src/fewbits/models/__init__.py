"""Floor 7: the small models of the papers' experiments, initialised from a key."""

from fewbits.models.build import NAMES, build

__all__ = ["NAMES", "build"]
