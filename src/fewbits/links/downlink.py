"""Downlink: the codec of what all receivers get, and the one of what is made for a single receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fewbits.codecs import Codec, Delta, LastValue, Lift, Route, Transform, as_lift
from fewbits.codecs.lifts.lift import AnySpec, cut
from fewbits.coders.base import Coder
from fewbits.errors import LocalError

Part = Codec | Transform | Coder


@dataclass(frozen=True, init=False, repr=False)
class Downlink:
    """A codec for the log of a broadcast and, if receivers may leave what all share, one for each on its own.

    >>> from fewbits import Delta, Quantize, Rans, chain
    >>> Downlink(Delta(chain(Quantize(bits=8), Rans())), own=chain(Quantize(bits=4), Rans()))
    Downlink(flat(Delta(chain(Quantize(bits=8), Rans()))), own=flat(Delta(chain(Quantize(bits=4), Rans()))))

    `own` is what differences for one receiver are encoded with. It must be stateless: what it misses is in the next
    difference anyway (EF21-P), so no memory is needed.
    """

    wire_name: ClassVar[str] = "downlink"

    public: Lift
    own: Lift | None = None

    def __init__(self, public: Part, own: Part | None = None) -> None:
        """Any codec of one vector stands under `flat`, and `own` under `Delta`."""
        object.__setattr__(self, "public", holding(as_lift(public, "Downlink"), "Downlink"))
        object.__setattr__(self, "own", None if own is None else _differences(own))

    @staticmethod
    def of(part: Part | Downlink) -> Downlink:
        """A Downlink as it is; of a codec, one without an own part."""
        return part if isinstance(part, Downlink) else Downlink(part)

    def map(self, change: Callable[[Lift], Lift]) -> Downlink:
        """Both codecs changed."""
        return Downlink(change(self.public), None if self.own is None else change(self.own))

    def __repr__(self) -> str:
        return f"Downlink({self.public!r}{'' if self.own is None else f', own={self.own!r}'})"


def _differences(own: Part) -> Lift:
    lift = holding(own if isinstance(own, Lift) else as_lift(Delta(own), "Downlink"), "Downlink")  # pyright: ignore
    if lift.stateless or not patchable(lift):
        raise LocalError(
            f"Downlink: own takes one stateless codec, such as chain(Quantize(bits=4), Rans()); got {own!r}"
        )
    return lift


def holding(lift: Lift, owner: str) -> Lift:
    """The lift, changed so that its shared state holds the value when any of it does; LocalError when it cannot."""
    if isinstance(lift, Route) and not lift.stateless:
        lift = Route(tuple((pattern, LastValue(own) if own.stateless else own) for pattern, own in lift.rules))
    if not lift.stateless and not all(isinstance(own, Delta | LastValue) for own in lift.inner):
        raise LocalError(f"{owner}: every group needs a stateless codec or Delta(...); got {lift!r}")
    return lift


def patchable(lift: Lift) -> bool:
    """Whether the shared state is the value and nothing else, so that a patch of the value is all that it takes."""
    return not lift.stateless and all(part.stateless for own in lift.inner for part in own.inner)


def vectors(state: Any) -> list[Tensor]:
    """The vector of each group, in a state of Delta or LastValue: both begin with it."""
    return [own[0] for own in state]


def value_of(lift: Lift, state: Any, spec: AnySpec) -> Any:
    """The value that a state of Delta or Hold stands for, cut back into tensors, in memory of its own."""
    return cut([x.clone() for x in vectors(state)], lift.groups(spec), spec)


def with_vectors(state: Any, changed: Sequence[Tensor]) -> Any:
    """The state with other vectors."""
    return tuple((x, *own[1:]) for x, own in zip(changed, state, strict=True))
