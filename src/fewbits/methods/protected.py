"""Noise over any other method: differential privacy for clients.

Gaussian mechanism: Dwork and Roth 2014. On clients' updates: McMahan, Ramage, Talwar, Zhang, ICLR 2018.
"""

from __future__ import annotations

from fewbits.learn.method import Method
from fewbits.learn.protection import Protection
from fewbits.methods.dense import laid_over


def dp(
    over: Method | None = None, clip: float = 1.0, noise: float = 1.0, delta: float = 1e-5, share: str = "local"
) -> Method:
    """What clients send, clipped and made noisy before the method `over` (default: dense) encodes it.

    `share`: "local", each message is private by itself; "central", only the sum of a round's messages is.
    """
    return laid_over("dp", over, protection=Protection(clip, noise, delta, share))
