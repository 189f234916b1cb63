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
    """What clients send, clipped and made noisy before the method `over` (default: dense) encodes it.

    `share`: "local", each message is private by itself; "central", only the sum of a round's messages is.
    """
    return wrap_method("dp", over, protection=DifferentialPrivacy(clip, noise, delta, share))


def masked(over: Method | None = None, bits: int = 32, largest: float = 1.0) -> Method:
    """Mask what clients send, so that only the sum of a round can be read; over dense uplinks.

    `bits` per number; `largest`: its size at most, what is beyond is cut.
    """
    over = over or dense()
    if over.up != dense().up:
        raise LocalError(
            "masked: words stand for the numbers of a dense uplink, as of dense, fedprox, intrinsic, fedpara; "
            f"{over.name} sends by {over.up!r}"
        )
    masking = PairwiseMasking(bits, largest)
    return wrap_method("masked", over, up=masking.up, masking=masking)
