"""Predict: our own marriage of LBGM (Azam et al. 2022) and error feedback: the last vector predicts, only the rest is compressed."""

from __future__ import annotations

from fewbits.codecs import ErrorFeedback, Predict, flat
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink
from fewbits.methods.stack import sparse_stack


def predict(silent: float = 0.2, fraction: float = 0.05, bits: int = 4, down: str = "delta8", momentum: float = 0.0) -> Method:
    """ErrorFeedback(Predict(top-k, levels, rANS)); rho alone is sent when it explains all but a share `silent` of the update."""
    up = flat(ErrorFeedback(Predict(sparse_stack(fraction, bits), silent=silent)))
    return Method("predict", up, downlink(down), ServerSGD(momentum=momentum))
