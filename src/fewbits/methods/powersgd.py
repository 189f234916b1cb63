"""PowerSGD: two thin factors of each matrix, with error feedback.

Vogels, Karimireddy, Jaggi, PowerSGD: Practical Low-Rank Gradient Compression, NeurIPS 2019.
"""

from __future__ import annotations

from fewbits.codecs import ErrorFeedback, LowRank, chain, flat
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def powersgd(rank: int = 4, down: str = "delta8", momentum: float = 0.0) -> Method:
    """PowerSGD: low-rank factors of each tensor, in float32, with error feedback; small tensors as they are.

    Args:
        rank: of the factors; larger: more bytes, more of the update arrives.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> powersgd(rank=2).up
        flat(ErrorFeedback(chain(LowRank(rank=2, passes=1, per='tensor', columns=None))))

    Source: Vogels et al., PowerSGD, NeurIPS 2019.
    """
    up = ErrorFeedback(chain(LowRank(rank)))
    return Method("powersgd", flat(up), downlink(down), ServerSGD(momentum=momentum))
