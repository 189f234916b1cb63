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

    Args:
        threshold: largest sin^2 of the angle at which a scalar is sent, in [0, 1]; or Adaptive(lr, steps, c), as text
            adaptive:C:LR:STEPS.
        granularity: one decision for the whole "model" (the paper) or for each "tensor" (its code).
        feedback: whether what recycling loses is added to the next update.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).
        normalise: divide by the examples of the clients that were "sampled", or of "all" (the paper's code).

    Example:
        >>> lbgm(threshold=0.4).up
        flat(LookBack(chain(Raw()), threshold=0.4))

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

    Args:
        threshold: largest sin^2 of the angle at which a scalar is sent, in [0, 1]; or Adaptive(lr, steps, c), as text
            adaptive:C:LR:STEPS.
        fraction: share of the entries that travel, in (0, 1].
        bits: of each entry that travels, 2 to 16; 32: float32 as it is.
        feedback: error feedback "none", "inside" (around the inner codec: the paper) or "outside" (around all).
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> lbgm_topk(fraction=0.01).up
        flat(LookBack(chain(TopK(fraction=0.01), Quantize(bits=4), Rans())))

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

    Args:
        threshold: largest sin^2 of the angle at which a scalar is sent, in [0, 1]; or Adaptive(lr, steps, c), as text
            adaptive:C:LR:STEPS.
        feedback: error feedback "none", "inside" (around the inner codec: the paper) or "outside" (around all).
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> lbgm_sign().up
        flat(LookBack(chain(Sign()), threshold=0.6))

    Source: Azam et al., Recycling Model Updates, ICLR 2022.
    """
    return Method(
        "lbgm+sign", flat(_stacked(chain(Sign()), threshold, feedback)), downlink(down), ServerSGD(momentum=momentum)
    )


def _stacked(inner: Codec, threshold: float | Adaptive, feedback: str) -> Codec:
    check_one_of("feedback", feedback, ("none", "inside", "outside"))
    looked = LookBack(ErrorFeedback(inner) if feedback == "inside" else inner, threshold=threshold)
    return ErrorFeedback(looked) if feedback == "outside" else looked
