"""Floor 3: codecs, the algebra of compression."""

from fewbits.codecs.base import Codec, Keys, Partial, Total, Transform, same
from fewbits.codecs.bases import Basis
from fewbits.codecs.chain import Chain, chain
from fewbits.codecs.count_sketch import CountSketch, MeanSketch
from fewbits.codecs.delta import Delta
from fewbits.codecs.error_feedback import ErrorFeedback
from fewbits.codecs.fetch_sgd import FetchSGD, FetchStep
from fewbits.codecs.field import Field, field_sum, summand
from fewbits.codecs.hold import Hold
from fewbits.codecs.lift import Lift, TreeTotal
from fewbits.codecs.lifts import Each, Flat, Route, as_lift, each, flat, route
from fewbits.codecs.look_back import Adaptive, LookBack
from fewbits.codecs.low_rank import LowRank
from fewbits.codecs.predict import Predict
from fewbits.codecs.quantize import Quantize
from fewbits.codecs.randk import RandK
from fewbits.codecs.raw import Raw
from fewbits.codecs.sign import Sign
from fewbits.codecs.sketch import Sketch
from fewbits.codecs.subspace import Subspace
from fewbits.codecs.threshold import Threshold
from fewbits.codecs.topk import TopK
from fewbits.codecs.words import Words

__all__ = [
    "Adaptive",
    "Basis",
    "Chain",
    "Codec",
    "CountSketch",
    "Delta",
    "Each",
    "ErrorFeedback",
    "FetchSGD",
    "FetchStep",
    "Field",
    "Flat",
    "Hold",
    "Keys",
    "Lift",
    "LookBack",
    "LowRank",
    "MeanSketch",
    "Partial",
    "Predict",
    "Quantize",
    "RandK",
    "Raw",
    "Route",
    "Sign",
    "Sketch",
    "Subspace",
    "Threshold",
    "TopK",
    "Total",
    "Transform",
    "TreeTotal",
    "Words",
    "as_lift",
    "chain",
    "each",
    "field_sum",
    "flat",
    "route",
    "same",
    "summand",
]
