"""Floor 3: codecs, the algebra of compression."""

from fewbits.codecs.base import Codec, Keys, Partial, Total, Transform, same
from fewbits.codecs.chain import Chain, chain
from fewbits.codecs.lifts.kinds import Each, Flat, Route, as_lift, each, flat, route
from fewbits.codecs.lifts.lift import Lift, TreeTotal
from fewbits.codecs.modular_encoding import ModularEncoding, linear_values
from fewbits.codecs.transforms.bases import Basis
from fewbits.codecs.transforms.count_sketch import CountSketch, MeanSketch
from fewbits.codecs.transforms.fetch_sgd import FetchSGD, FetchStep
from fewbits.codecs.transforms.low_rank import LowRank
from fewbits.codecs.transforms.modular import Modular
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.randk import RandK
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.sign import Sign
from fewbits.codecs.transforms.sketch import Sketch
from fewbits.codecs.transforms.subspace import Subspace
from fewbits.codecs.transforms.threshold import Threshold
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.delta import Delta
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.last_value import LastValue
from fewbits.codecs.wrappers.look_back import Adaptive, LookBack
from fewbits.codecs.wrappers.predict import Predict

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
    "ModularEncoding",
    "Flat",
    "LastValue",
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
    "Modular",
    "as_lift",
    "chain",
    "each",
    "flat",
    "route",
    "same",
    "linear_values",
]
