"""EDEN: a random rotation, then one to four bits a number, unbiased.

Vargaftik et al., DRIVE: One-bit Distributed Mean Estimation, NeurIPS 2021; EDEN, ICML 2022.
"""

from __future__ import annotations

from fewbits.checks import check_whole
from fewbits.codecs import Rotate, Sign, chain, flat
from fewbits.coders import Fixed, Rans
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def eden(bits: int = 1, down: str = "delta8", momentum: float = 0.0) -> Method:
    """EDEN: rotated updates at 1 to 4 bits a number, unbiased; sums are turned back once, for all clients.

    The noise of one update is 0.57, 0.13, 0.036 or 0.0096 of its square norm. One bit is DRIVE.

    Args:
        bits: of each number, 1 to 4: its sign, and one of 2^(bits-1) magnitudes; above 1, entropy-coded.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> eden().up
        flat(chain(Rotate(seed=None), Sign(mode='unbiased')))

    Source: Vargaftik et al., EDEN, ICML 2022.
    """
    check_whole("eden: bits", bits, 1, 4)
    coder = Fixed() if bits == 1 else Rans()  # signs of a rotated vector are coins
    up = chain(Rotate(), Sign(sizes=2 ** (bits - 1), mode="unbiased"), coder)
    return Method("eden", flat(up), downlink(down), ServerSGD(momentum=momentum))
