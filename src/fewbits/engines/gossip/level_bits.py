"""The bits of a frame's levels: as measured, by their entropy, and by the coder's closed form."""

from __future__ import annotations

import numpy as np

from fewbits import kernels
from fewbits.codecs import Chain, Codec
from fewbits.codecs.wrappers.wrapper import Wrapper
from fewbits.coders import Golomb
from fewbits.coders.golomb import predicted_bits
from fewbits.coders.joined import offsets
from fewbits.links import Sender
from fewbits.links.ledger import stages


def level_bits(sender: Sender) -> dict[str, float]:
    """Bits of the levels in the sender's last frame; {} when the frame has no levels.

    "coded": as measured. "entropy": the entropy of the levels' frequencies, times their number. "predicted": the closed
    form of the vector source coder; only for `Golomb`.
    """
    found = {"coded": 0.0, "entropy": 0.0, "predicted": 0.0}
    coders: set[str] = set()
    for group, message in zip(sender.codec.groups(sender.spec), sender.message, strict=True):
        codec = _unwrapped(group.codec)
        if not isinstance(codec, Chain) or message.carrier.dtype.is_floating_point:
            continue
        levels = codec.specs(message.sides, group.spec)[-1]
        histogram = kernels.bits.histogram(offsets(message.carrier.numpy(), levels), levels.levels)
        counts = histogram[histogram > 0]
        found["entropy"] += float(counts @ np.log2(counts.sum() / counts))
        coders.add(type(codec.coder).__name__)
        if isinstance(codec.coder, Golomb) and len(counts) > 1:
            found["predicted"] += predicted_bits(histogram, codec.coder.order)
    bits = stages(sender.sections)
    found["coded"] = float(sum(bits.get(name, 0) for name in coders))
    if not found["predicted"]:
        del found["predicted"]
    return found if coders else {}


def _unwrapped(codec: Codec) -> Codec:
    while isinstance(codec, Wrapper):
        codec = codec.codec
    return codec
