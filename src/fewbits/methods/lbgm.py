"""LBGM: recycle the last update that was sent in full.

Azam, Hosseinalipour, Qiu, Brinton, Recycling Model Updates in Federated Learning, ICLR 2022 (arXiv 2202.00280).
"""

from __future__ import annotations

from fewbits.checks import check_one_of
from fewbits.codecs import Adaptive, ErrorFeedback, LookBack, Raw, Sign, chain, each, flat
from fewbits.codecs.base import Codec
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink
from fewbits.methods.stack import sparse_stack

LIFTS = {"model": flat, "tensor": each}


def lbgm(
    threshold: float | Adaptive = 0.2,
    granularity: str = "model",
    feedback: bool = False,
    down: str = "dense",
    momentum: float = 0.0,
    normalise: str = "sampled",
) -> Method:
    """LBGM, algorithm 1: a full update in float32, or one scalar when the phase error is at most `threshold`.

    `granularity`: one decision for the whole "model" (the paper) or for each "tensor" (its code).
    `threshold` may also be the theory's rule, `Adaptive(lr, steps, c)`; on the command line adaptive:C:LR:STEPS.

    Source: Azam et al., Recycling Model Updates, ICLR 2022.
    """
    check_one_of("granularity", granularity, tuple(LIFTS))
    up = LIFTS[granularity](LookBack(chain(Raw()), threshold=threshold, feedback=feedback))
    return Method("lbgm", up, downlink(down), ServerSGD(momentum=momentum), normalise)


def lbgm_topk(
    threshold: float | Adaptive = 0.2,
    fraction: float = 0.05,
    bits: int = 4,
    feedback: str = "none",
    down: str = "delta8",
    momentum: float = 0.0,
) -> Method:
    """LBGM over top-k: one scalar when the update repeats, else its largest entries.

    `feedback`: error feedback "none", "inside" (around the top-k: the paper) or "outside" (around all).

    Source: Azam et al., Recycling Model Updates, ICLR 2022.
    """
    return Method(
        "lbgm+topk",
        flat(_stacked(sparse_stack(fraction, bits), threshold, feedback)),
        downlink(down),
        ServerSGD(momentum=momentum),
    )


def lbgm_sign(
    threshold: float | Adaptive = 0.6, feedback: str = "none", down: str = "delta8", momentum: float = 0.0
) -> Method:
    """LBGM over scaled signs: one scalar when the update repeats, else one bit per number.

    Source: Azam et al., Recycling Model Updates, ICLR 2022.
    """
    return Method(
        "lbgm+sign", flat(_stacked(chain(Sign()), threshold, feedback)), downlink(down), ServerSGD(momentum=momentum)
    )


def _stacked(inner: Codec, threshold: float | Adaptive, feedback: str) -> Codec:
    check_one_of("feedback", feedback, ("none", "inside", "outside"))
    looked = LookBack(ErrorFeedback(inner) if feedback == "inside" else inner, threshold=threshold)
    return ErrorFeedback(looked) if feedback == "outside" else looked
