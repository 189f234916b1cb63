"""Downlinks by name."""

from __future__ import annotations

from fewbits.choices import unknown
from fewbits.codecs import Chain, DeadZone, Delta, Lift, Quantize, Raw, Threshold, TopK, chain, flat
from fewbits.coders import Rans
from fewbits.links import Downlink

DOWNLINKS = {  # what each sends to a client; all but the first two and `changes` are entropy-coded
    "dense": "the whole model in float32, every time; what never changes once",
    "fp16": "the same in half precision",
    "delta8": "each round's change in 8 bits, the same for all; who missed some gets all of them, or the model",
    "delta4": "each round's change in 4 bits",
    "sparse": "each round's change: its largest 5% in 4 bits; missed ones are merged",
    "changes": "the numbers that changed, in float32: for servers that change few",
    "own8": "delta8, or one difference to what this client holds where that is shorter",
    "own4": "the same in 4 bits: where clients come back seldom, or many are new",
    "own2": "the same in seven levels behind a dead zone, about 2.3 bits once coded",
    "own1": "the same in three levels, about 1.4 bits once coded: fewest bytes; for subspaces",
}


DEAD_ZONES = {1: (1, 2.0), 2: (3, 1.1), 3: (7, 0.55), 4: (15, 0.28)}  # by bits: levels and step of DeadZone


def downlink(name: str) -> Lift | Downlink:
    """The downlink of that name; LocalError when there is none.

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


def downlink_name(found: Lift | Downlink) -> str:
    """The name of a downlink; its description where it has none.

    >>> downlink_name(downlink("own4"))
    'own4'
    """
    return next((name for name in DOWNLINKS if downlink(name) == found), repr(found))


def dead_zone(bits: int) -> Chain:
    """About so many bits an entry, 1 to 4, of bell-shaped values: 1 is ternary. Contractive, without dither."""
    levels, step = DEAD_ZONES[bits]
    return chain(DeadZone(levels, step), Rans())


def _levels(name: str) -> Chain:
    return chain(Quantize(bits=int(name[-1])), Rans())
