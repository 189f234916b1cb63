"""Over another method: noise, so that a message or a sum tells little of a client; masks that leave only the sum.

Gaussian mechanism: Dwork and Roth 2014; on clients' updates: McMahan, Ramage, Talwar, Zhang, ICLR 2018. Masks: Bonawitz
et al., CCS 2017.
"""

from __future__ import annotations

from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.dense import dense, wrap_method
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.pairwise_masking import PairwiseMasking


def dp(
    over: Method | None = None, clip: float = 1.0, noise: float = 1.0, delta: float = 1e-5, share: str = "local"
) -> Method:
    """Differential privacy: clip updates and add Gaussian noise before the method `over` (default: dense) encodes them.

    Args:
        over: the method of what travels; None: dense.
        clip: largest norm of an update; larger ones are scaled down to it.
        noise: standard deviation of the noise, as a multiple of `clip`.
        delta: chance that the promise of epsilon fails; below 1 over the number of clients.
        share: who adds the noise of a sum: "local", each message all of it; "central", each its part.

    Example:
        >>> dp(noise=0.5).privacy.noise
        0.5

    Source: McMahan et al., DP-FedAvg, ICLR 2018.
    """
    return wrap_method("dp", over, privacy=DifferentialPrivacy(clip, noise, delta, share))


def masked(over: Method | None = None, bits: int = 32, largest: float = 1.0, threshold: float = 2 / 3) -> Method:
    """Secure aggregation: masks hide each update, and only a round's sum can be read; over dense uplinks.

    Args:
        over: a method with a dense uplink; None: dense.
        bits: of each number on the wire, 2 to 48.
        largest: size of a change of a parameter; larger ones are cut to it and counted in a note.
        threshold: share of a round's clients that must arrive, above 0.5; with fewer the round is void.

    Example:
        >>> masked(bits=24).masking.bits
        24

    Source: Bonawitz et al., CCS 2017.
    """
    over = over or dense()
    if over.up != dense().up:
        raise LocalError(
            "masked: masks need a dense uplink, as that of dense, fedprox, intrinsic or fedpara; "
            f"the uplink of {over.name} is {over.up!r}"
        )
    masking = PairwiseMasking(bits, largest, threshold=threshold)
    return wrap_method("masked", over, up=masking.up, masking=masking)
