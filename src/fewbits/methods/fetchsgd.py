"""FetchSGD: clients send count sketches; momentum and error feedback are the server's, in sketches, too.

Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora, ICML 2020.
"""

from __future__ import annotations

from fewbits.codecs import FetchSGD, MeanSketch, flat
from fewbits.learn.method import Method
from fewbits.learn.optimizers import FetchServer
from fewbits.methods.downlink import downlink


def fetchsgd(
    rows: int = 5,
    columns: int = 400,
    k: int = 200,
    momentum: float = 0.9,
    lr: float = 1.0,
    feedback: str = "zero",
    seed: int = 7,
    down: str = "changes",
) -> Method:
    """FetchSGD: clients send count sketches; the server sends the k entries that a round changes.

    A sketch is a table of rows x columns numbers. Momentum and error feedback are in the server's sketches.

    The paper's local top-k, with which it compares, is `topk` (fraction = k / parameters, bits=32).

    Source: Rothchild et al., FetchSGD, ICML 2020.
    """
    linear_prefix = MeanSketch(columns, rows, seed)
    return Method(
        "fetchsgd", flat(linear_prefix), downlink(down), FetchServer(linear_prefix, FetchSGD(k, momentum, lr, feedback))
    )
