"""DeMo: the largest cosine coefficients leave the momentum and travel.

Peng, Quesnelle, Kingma, DeMo: Decoupled Momentum Optimization, arXiv 2411.19870.
"""

from __future__ import annotations

from fewbits.codecs import DCT, ErrorFeedback, Quantize, TopK, chain, flat
from fewbits.coders import Rans
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def demo(
    fraction: float = 1 / 128,
    chunk: int = 64,
    bits: int = 8,
    decay: float = 0.999,
    lr: float = 1.0,
    down: str = "delta8",
) -> Method:
    """DeMo: m := decay * m + update; the largest cosine coefficients of m travel and leave it.

    Coefficients are of rows of `chunk` entries, and the largest are chosen among chunk^2 of them: 32 of 4,096.
    Here values travel at 8 bits, the server steps along their mean, and not along its sign.

    Args:
        fraction: share of the coefficients that travel, in (0, 1].
        chunk: entries of a row, a power of two, 2 to 1,024.
        bits: of each value that travels, 2 to 16; 32: float32 as it is.
        decay: share of m that stays, in (0, 1].
        lr: of the server's step.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> demo(fraction=0.01).up.codec
        ErrorFeedback(chain(DCT(chunk=64), TopK(fraction=0.01, chunk=4096), Quantize(bits=8), Rans()), decay=0.999)

    Source: Peng et al., DeMo, 2024.
    """
    levels = () if bits == 32 else (Quantize(bits=bits), Rans())
    up = ErrorFeedback(chain(DCT(chunk), TopK(fraction, chunk * chunk), *levels), decay=decay)
    return Method("demo", flat(up), downlink(down), ServerSGD(lr=lr))
