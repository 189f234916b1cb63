"""Trainings in one call, with a server and without, and what they leave in a folder."""

from fewbits.training.federate import federate
from fewbits.training.gossip import gossip

__all__ = ["federate", "gossip"]
