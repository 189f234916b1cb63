"""Aggregation: how a server makes one step of a round's updates, where some clients may lie.

`NormBound` leaves out updates that are much longer than the others. An `Aggregator` takes the place of the mean:
`CoordinateMedian`, `TrimmedMean`, `Krum`, `MultiKrum`, `GeometricMedian`. All of them work on what was sent: see
`Updates`.
"""

from fewbits.learn.aggregation.aggregator import Aggregator, ChoosingRule, CoordinateRule
from fewbits.learn.aggregation.coordinate_median import CoordinateMedian
from fewbits.learn.aggregation.geometric_median import GeometricMedian
from fewbits.learn.aggregation.krum import Krum
from fewbits.learn.aggregation.multi_krum import MultiKrum
from fewbits.learn.aggregation.norm_bound import NormBound
from fewbits.learn.aggregation.trimmed_mean import TrimmedMean
from fewbits.learn.aggregation.updates import Updates

__all__ = [
    "Aggregator",
    "ChoosingRule",
    "CoordinateMedian",
    "CoordinateRule",
    "GeometricMedian",
    "Krum",
    "MultiKrum",
    "NormBound",
    "TrimmedMean",
    "Updates",
]
