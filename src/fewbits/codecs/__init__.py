"""Codecs: what turns an update into a message, and a message back into values.

Transforms (`TopK`, `Quantize`, `Subspace`) stand in a `chain`, with a coder at its end. Wrappers (`ErrorFeedback`,
`Delta`, `LookBack`, `Predict`) stand around a codec and add a state or a memory. Lifts (`flat`, `each`, `route`) take a
codec to a dictionary of tensors. Subclass `Transform` for a stateless codec of your own, and `Codec` for any other.
"""

from fewbits.codecs.base import Codec, Keys, Partial, Total, Transform, same
from fewbits.codecs.chain import Chain, chain
from fewbits.codecs.lifts.flat_each_route import Each, Flat, Route, as_lift, each, flat, route
from fewbits.codecs.lifts.lift import Lift, TreeTotal
from fewbits.codecs.modular_encoding import ModularEncoding, linear_values
from fewbits.codecs.transforms.bases import Basis
from fewbits.codecs.transforms.count_sketch import CountSketch, MeanSketch
from fewbits.codecs.transforms.dct import DCT
from fewbits.codecs.transforms.dead_zone import DeadZone
from fewbits.codecs.transforms.fetch_sgd import FetchSGD, FetchStep
from fewbits.codecs.transforms.low_rank import LowRank
from fewbits.codecs.transforms.modular import Modular
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.randk import RandK
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.rotate import Rotate
from fewbits.codecs.transforms.sign import Sign
from fewbits.codecs.transforms.sketch import Sketch
from fewbits.codecs.transforms.subspace import Subspace
from fewbits.codecs.transforms.threshold import Threshold
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.blocks import Blocks
from fewbits.codecs.wrappers.delta import Delta
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.last_value import LastValue
from fewbits.codecs.wrappers.look_back import Adaptive, LookBack
from fewbits.codecs.wrappers.predict import Predict
from fewbits.codecs.wrappers.since_start import SinceStart
from fewbits.spec import Contract, TreeSpec

__all__ = [
    "Adaptive",
    "Basis",
    "Blocks",
    "Chain",
    "Codec",
    "Contract",
    "CountSketch",
    "DCT",
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
    "DeadZone",
    "Rotate",
    "Route",
    "Sign",
    "SinceStart",
    "Sketch",
    "Subspace",
    "Threshold",
    "TopK",
    "Total",
    "Transform",
    "TreeSpec",
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
