"""Clipping again after decoding: what error feedback adds to a clipped update must not pass the clip.

Flower's client-side mods (fixedclipping_mod, adaptiveclipping_mod) clip what a client trained. Our mod then sends part
of it, with what it did not send before, which may be longer than the clip. Noise that a server adds counts on the clip.
"""

from __future__ import annotations

import math

from flwr.app import RecordDict
from torch import Tensor

CLIP = "clipping_norm"  # Flower's name, in a message's configuration, for the norm that its mods clip to


def clip_of(content: RecordDict) -> float | None:
    """The norm that a client is told to clip to; None when it is told none."""
    for record in content.config_records.values():
        found = record.get(CLIP)
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found) and found > 0:
            return float(found)
    return None


def clipped(update: dict[str, Tensor], norm: float | None) -> dict[str, Tensor]:
    """The update, times min(1, norm / its length over all tensors).

    >>> import torch
    >>> clipped({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 1.0)
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """
    if norm is None:
        return update
    length = math.sqrt(sum(float(x.double().square().sum()) for x in update.values()))
    if not length > norm:
        return update
    return {name: x * (norm / length) for name, x in update.items()}
