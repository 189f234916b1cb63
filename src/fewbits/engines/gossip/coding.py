"""What entropy coding made of a frame's levels: measured bits beside their entropy and the closed form."""

from __future__ import annotations

import numpy as np

from fewbits import kernels
from fewbits.codecs import Chain
from fewbits.codecs.wrappers.wrapper import Wrapper
from fewbits.coders import Golomb
from fewbits.coders.golomb import predicted_bits
from fewbits.coders.joined import offsets
from fewbits.links import Sender
from fewbits.links.ledger import stages


def coding(sender: Sender) -> dict[str, float]:
    """Of the last frame: `coded` bits, as measured; `entropy` of the levels' own frequencies, times their number; and
    for `Golomb` what its closed form has `predicted`. Empty when there are no levels.
    """
    found = {"coded": 0.0, "entropy": 0.0, "predicted": 0.0}
    coders: set[str] = set()
    for group, message in zip(sender.codec.groups(sender.spec), sender.message, strict=True):
        codec = group.codec
        while isinstance(codec, Wrapper):
            codec = codec.codec
        if not isinstance(codec, Chain) or message.carrier.dtype.is_floating_point:
            continue
        levels = codec.specs(message.sides, group.spec)[-1]
        every = kernels.bits.histogram(offsets(message.carrier.numpy(), levels), levels.levels)
        counts = every[every > 0]
        found["entropy"] += float(counts @ np.log2(counts.sum() / counts))
        coders.add(type(codec.coder).__name__)
        if isinstance(codec.coder, Golomb) and len(counts) > 1:
            found["predicted"] += predicted_bits(every, codec.coder.order)
    bits = stages(sender.sections)
    found["coded"] = float(sum(bits.get(name, 0) for name in coders))
    if not found["predicted"]:
        del found["predicted"]
    return found if coders else {}
