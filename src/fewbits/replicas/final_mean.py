"""The mean of several models that differ, in float32, and their distance to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewbits.links import Receiver, Sender
from fewbits.replicas.from_rank import from_rank
from fewbits.replicas.terms import DENSE
from fewbits.replicas.vectors import end_to_end
from fewbits.rng import Key
from fewbits.spec import TreeSpec


def pieces(values: dict[str, Tensor], spec: TreeSpec) -> list[bytes | memoryview]:
    """The pieces of a frame with a model as it is; use them before the values change."""
    return Sender(DENSE, spec, Key(0)).pieces(values)


def mean_of(frames: Sequence[bytes | memoryview], spec: TreeSpec) -> tuple[Tensor, float]:
    """The mean of the models in one frame of each rank, and ``sqrt(sum_r |x_r - mean|^2)``, the consensus distance.

    Models are added in the order of ranks, so that all ranks get the same bits.

    Raises:
        WireError: a frame is damaged; the text names its rank.
    """
    models = [_model(frame, spec, rank) for rank, frame in enumerate(frames)]
    mean = models[0].clone()
    for other in models[1:]:
        mean.add_(other)
    mean.div_(len(models))
    squares = (float(torch.linalg.vector_norm(x.sub(mean), dtype=torch.float64)) ** 2 for x in models)
    return mean, math.sqrt(sum(squares))


def _model(frame: bytes | memoryview, spec: TreeSpec, rank: int) -> Tensor:
    with from_rank(rank):
        return end_to_end(Receiver(DENSE, spec).receive(frame))
