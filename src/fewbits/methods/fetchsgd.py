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

    Args:
        rows: hash functions of a sketch; its estimates are medians over them.
        columns: numbers in each row.
        k: entries of the model that a round changes; below about a tenth of the columns.
        momentum: in the server's sketch, in [0, 1).
        lr: the server's rate.
        feedback: what the server forgets of the k entries: "zero" empties their places, "subtract" takes them off.
        seed: of the hash functions; everybody's.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> fetchsgd().up
        flat(chain(MeanSketch(columns=400, rows=5, seed=7, mode='unbiased')))

    Source: Rothchild et al., FetchSGD, ICML 2020.
    """
    linear_prefix = MeanSketch(columns, rows, seed)
    return Method(
        "fetchsgd", flat(linear_prefix), downlink(down), FetchServer(linear_prefix, FetchSGD(k, momentum, lr, feedback))
    )
