"""Predict: the last vector predicts, only the rest is compressed.

Our own marriage of LBGM (Azam et al., ICLR 2022) and error feedback.
"""

from __future__ import annotations

from fewbits.checks import check_one_of
from fewbits.codecs import ErrorFeedback, Predict, flat
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink
from fewbits.methods.stack import sparse_stack


def predict(
    silent: float = 0.2,
    fraction: float = 0.05,
    bits: int = 4,
    feedback: str = "outside",
    down: str = "delta8",
    momentum: float = 0.0,
) -> Method:
    """ErrorFeedback(Predict(top-k, levels, rANS)); rho alone when it explains all but a share `silent` of the update.

    With `feedback="none"` there is no error feedback: what the top-k missed is still missing from the prediction next
    time, which makes up for most of it, and many rounds fall silent (docs/error-feedback-and-recycling.md).
    """
    check_one_of("feedback", feedback, ("none", "outside"))
    predicted = Predict(sparse_stack(fraction, bits), silent=silent)
    up = flat(predicted if feedback == "none" else ErrorFeedback(predicted))
    return Method("predict", up, downlink(down), ServerSGD(momentum=momentum))
