"""Downlinks by name."""

from __future__ import annotations

from fewbits.codecs import Delta, Lift, Quantize, Raw, Threshold, chain, flat
from fewbits.coders import Rans
from fewbits.errors import LocalError

DOWNLINKS = ("dense", "fp16", "delta8", "delta4", "changes")


def downlink(name: str) -> Lift:
    """`dense`, `fp16`: the whole model every time; `delta8`, `delta4`: differences to the public model in 8 or 4 bits;
    `changes`: differences in float32 at the places that changed, for servers that change few.

    Differences with a shared reference need no error feedback: EF21-P (Gruntkowska et al. 2023).
    """
    if name in ("dense", "fp16"):
        return flat(chain(Raw() if name == "dense" else Raw("fp16")))
    if name in ("delta8", "delta4"):
        return flat(Delta(chain(Quantize(bits=int(name[-1])), Rans())))
    if name == "changes":  # exact but for one rounding of an entry, which the next round makes good
        return flat(Delta(chain(Threshold(0.0))))
    raise LocalError(f"unknown downlink {name!r}; choose one of {', '.join(DOWNLINKS)}")
