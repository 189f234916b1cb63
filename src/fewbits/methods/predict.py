"""Predict: the last vector predicts, only the rest is compressed.

Ours: LBGM (Azam et al., ICLR 2022) with error feedback.
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
    """Predict the update from the last one; send the difference, or one scalar when the prediction is good enough.

    The codec is ErrorFeedback(Predict(top-k, levels, rANS)). Only the scalar rho is sent
    when it explains all but a share `silent` of the update.

    `feedback="none"` leaves error feedback out. The next difference then contains most of what top-k missed, and many
    rounds send the scalar only (docs/error-feedback-and-recycling.md).

    Args:
        silent: share of the update's energy that may stay unexplained when the scalar is sent alone, in [0, 1].
        fraction: share of the entries that travel, in (0, 1].
        bits: of each entry that travels, 2 to 16; 32: float32 as it is.
        feedback: "outside", around the codec, or "none".
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> predict().up
        flat(ErrorFeedback(Predict(chain(TopK(fraction=0.05), Quantize(bits=4), Rans()), silent=0.2)))

    Source: ours, after Azam et al., ICLR 2022.
    """
    check_one_of("feedback", feedback, ("none", "outside"))
    predicted = Predict(sparse_stack(fraction, bits), silent=silent)
    up = flat(predicted if feedback == "none" else ErrorFeedback(predicted))
    return Method("predict", up, downlink(down), ServerSGD(momentum=momentum))
