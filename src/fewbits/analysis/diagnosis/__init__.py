"""Measure a model's gradients before a method is chosen: how few directions they use, and how often they repeat."""

from fewbits.analysis.diagnosis.central import Central
from fewbits.analysis.diagnosis.diagnose import Diagnosis, diagnose
from fewbits.analysis.diagnosis.gradients import (
    Directions,
    components,
    cosines,
    gram,
    growth,
    recycled,
    spectrum,
    top_energy,
)
from fewbits.analysis.diagnosis.rules import Advice, advise
from fewbits.analysis.diagnosis.subspace import Point, intrinsic_dimension, isotropy, train_in

__all__ = [
    "Advice",
    "Central",
    "Diagnosis",
    "Directions",
    "Point",
    "advise",
    "components",
    "cosines",
    "diagnose",
    "gram",
    "growth",
    "intrinsic_dimension",
    "isotropy",
    "recycled",
    "spectrum",
    "top_energy",
    "train_in",
]
