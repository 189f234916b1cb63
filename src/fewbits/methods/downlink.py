"""Downlinks by name."""

from __future__ import annotations

from fewbits.choices import unknown
from fewbits.codecs import Chain, DeadZone, Delta, Lift, Quantize, Raw, Threshold, TopK, chain, flat
from fewbits.coders import Rans
from fewbits.links import Downlink

DOWNLINKS = ("dense", "fp16", "delta8", "delta4", "sparse", "changes", "own8", "own4", "own2", "own1")


DEAD_ZONES = {1: (1, 2.0), 2: (3, 1.1), 3: (7, 0.55), 4: (15, 0.28)}  # by bits: levels and step of DeadZone


def downlink(name: str) -> Lift | Downlink:
    """The downlink of that name; LocalError when there is none.

    `dense`, `fp16`: the whole model every time, except for constants. `delta8`, `delta4`: differences to the public
    model in 8 or 4 bits. `changes`: differences in float32 at the entries that changed, for servers that change few.
    `sparse`: the largest 5% of the difference in 4 bits; missed differences can be merged. `own8`, `own4`: as `delta8`
    and `delta4`, or one such difference for a single client when that is shorter. `own2`, `own1`: such differences at
    about 2.3 and 1.4 bits an entry.

    Differences with a shared reference need no error feedback: EF21-P (Gruntkowska et al. 2023).
    """
    if name in ("dense", "fp16"):
        return flat(chain(Raw() if name == "dense" else Raw("fp16")))
    if name == "sparse":
        return flat(Delta(chain(TopK(0.05), Quantize(bits=4), Rans())))
    if name in ("delta8", "delta4"):
        return flat(Delta(_levels(name)))
    if name == "changes":  # exact but for one rounding of an entry, which the next round corrects
        return flat(Delta(chain(Threshold(0.0))))
    if name in ("own8", "own4"):
        return Downlink(Delta(_levels(name)), personal=_levels(name))
    if name in ("own2", "own1"):
        return Downlink(Delta(dead_zone(int(name[-1]))), personal=dead_zone(int(name[-1])))
    raise unknown("downlink", name, DOWNLINKS)


def dead_zone(bits: int) -> Chain:
    """About so many bits an entry, 1 to 4, of bell-shaped values: 1 is ternary. Contractive, without dither."""
    levels, step = DEAD_ZONES[bits]
    return chain(DeadZone(levels, step), Rans())


def _levels(name: str) -> Chain:
    return chain(Quantize(bits=int(name[-1])), Rans())
