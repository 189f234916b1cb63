"""The small models of the papers' experiments, with weights drawn from a key."""

from fewbits.models.build import NAMES, build

__all__ = ["NAMES", "build"]
