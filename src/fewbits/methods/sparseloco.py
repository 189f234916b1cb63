"""SparseLoCo: the largest entries of each chunk at two bits, with feedback that forgets.

Sarfi, Thérien, Lidin, Belilovsky, Communication Efficient LLM Pre-training with SparseLoCo, arXiv 2508.15706.
"""

from __future__ import annotations

from fewbits.checks import check_whole
from fewbits.codecs import ErrorFeedback, Sign, TopK, chain, flat
from fewbits.coders import Rans
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def sparseloco(
    fraction: float = 1 / 64,
    chunk: int = 4096,
    bits: int = 2,
    decay: float = 0.95,
    lr: float = 0.7,
    down: str = "delta8",
) -> Method:
    """SparseLoCo: the 64 largest of each 4,096 entries at two bits; m := decay * m + update, m := m - what was sent.

    m is each client's own; it stands in place of the server's momentum. An entry costs about 9.2 bits, where the
    paper counts 14: positions travel as one sorted set, and the codes are entropy-coded.

    Args:
        fraction: share of each chunk that travels, in (0, 1].
        chunk: entries of a chunk.
        bits: of each entry that travels, 1 to 5: its sign, and one of 2^(bits-1) magnitudes, the means of bins.
        decay: share of m that stays, in (0, 1].
        lr: of the server's step; the paper takes 0.4 to 1.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> sparseloco().up
        flat(ErrorFeedback(chain(TopK(fraction=0.015625, chunk=4096), Sign(sizes=2), Rans()), decay=0.95))

    Source: Sarfi et al., SparseLoCo, 2025.
    """
    check_whole("sparseloco: bits", bits, 1, 5)
    up = ErrorFeedback(chain(TopK(fraction, chunk), Sign(sizes=2 ** (bits - 1)), Rans()), decay=decay)
    return Method("sparseloco", flat(up), downlink(down), ServerSGD(lr=lr))
