"""Local objectives: the terms that a client adds to its plain loss."""

from fewbits.learn.objectives.feddyn import FedDyn
from fewbits.learn.objectives.fedprox import FedProx
from fewbits.learn.objectives.plain import Plain
from fewbits.learn.objectives.scaffold import Scaffold

__all__ = ["FedDyn", "FedProx", "Plain", "Scaffold"]
