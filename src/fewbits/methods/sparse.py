"""Sparse and one-bit updates with error feedback.

Top-k: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018. Sign: Karimireddy et al., Error Feedback
Fixes SignSGD, ICML 2019. Random-k: Konecny et al. 2016 (random mask).
"""

from __future__ import annotations

from fewbits.checks import check_whole
from fewbits.codecs import ErrorFeedback, Quantize, RandK, Sign, chain, flat
from fewbits.coders import Rans
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import DEAD_ZONES, dead_zone, downlink
from fewbits.methods.stack import sparse_stack


def topk(fraction: float = 0.05, bits: int = 4, down: str = "delta8", momentum: float = 0.0) -> Method:
    """Top-k with error feedback, on `bits`-bit levels (32: float32 values), on rANS.

    Args:
        fraction: share of the entries that travel, in (0, 1].
        bits: of each entry that travels, 2 to 16; 32: float32 as it is.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> topk(fraction=0.01).up
        flat(ErrorFeedback(chain(TopK(fraction=0.01), Quantize(bits=4), Rans())))

    Source: Stich et al., Sparsified SGD with Memory, NeurIPS 2018.
    """
    return Method(
        "topk", flat(ErrorFeedback(sparse_stack(fraction, bits))), downlink(down), ServerSGD(momentum=momentum)
    )


def randk(fraction: float = 0.05, bits: int = 4, down: str = "delta8", momentum: float = 0.0) -> Method:
    """Random-k with error feedback; a shared key gives the entries, so they are never sent.

    Args:
        fraction: share of the entries that travel, in (0, 1].
        bits: of each entry that travels, 2 to 16.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> randk(fraction=0.01).up
        flat(ErrorFeedback(chain(RandK(fraction=0.01, mode='contractive'), Quantize(bits=4), Rans())))

    Source: Konečný et al., 2016.
    """
    return Method(
        "randk",
        flat(ErrorFeedback(chain(RandK(fraction), Quantize(bits=bits), Rans()))),
        downlink(down),
        ServerSGD(momentum=momentum),
    )


def signsgd(down: str = "delta8", momentum: float = 0.0) -> Method:
    """Scaled signs with error feedback: one bit per number.

    Args:
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> signsgd().up
        flat(ErrorFeedback(chain(Sign())))

    Source: Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019.
    """
    return Method("signsgd", flat(ErrorFeedback(chain(Sign()))), downlink(down), ServerSGD(momentum=momentum))


def deadzone(bits: int = 2, down: str = "own4", momentum: float = 0.0) -> Method:
    """Uniform levels behind a dead zone, entropy-coded, with error feedback: few bits for every number.

    Args:
        bits: about so many of each number, 1 to 4; 1: ternary.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4, own2
            or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> deadzone(bits=1).up
        flat(ErrorFeedback(chain(DeadZone(levels=1, step=2), Rans())))

    Source: ternary weights, Li, Zhang, Liu 2016, with error feedback as in Stich et al. 2018.
    """
    check_whole("deadzone: bits", bits, 1, max(DEAD_ZONES))
    return Method("deadzone", flat(ErrorFeedback(dead_zone(bits))), downlink(down), ServerSGD(momentum=momentum))
