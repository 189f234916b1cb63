"""Downlink: one codec for the frames that all receivers get, and one for those made for a single receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fewbits.codecs import Codec, Delta, LastValue, Lift, Route, Transform, as_lift, large
from fewbits.codecs.lifts.lift import AnySpec, cut
from fewbits.coders.base import Coder
from fewbits.errors import LocalError

Part = Codec | Transform | Coder


@dataclass(frozen=True, init=False, repr=False)
class Downlink:
    """What a server's frames to its clients are encoded with.

    Personal updates bring one receiver from the value w that it holds to w + C(v - w), near the public value v. The
    server sends one where it is shorter than every exact update.

    Args:
        public: codec of the entries, which all receivers get.
        personal: codec C of personal updates, such as chain(Quantize(bits=4), Rans()); None: there are none. It must be
            stateless: what it misses is in the next difference anyway, so no memory is needed.

    Raises:
        LocalError: `public` is stateful and not `Delta`, or `personal` is not stateless.

    >>> from fewbits import Delta, Quantize, Rans, chain
    >>> Downlink(Delta(chain(Quantize(bits=8), Rans())), personal=chain(Quantize(bits=4), Rans()))
    Downlink(flat(Delta(chain(Quantize(bits=8), Rans()))), personal=flat(Delta(chain(Quantize(bits=4), Rans()))))

    Source: EF21-P (Gruntkowska et al. 2023, arXiv 2209.15218), with one reference per receiver instead of one for all.
    """

    wire_name: ClassVar[str] = "downlink"

    public: Lift
    personal: Lift | None = None

    def __init__(self, public: Part, personal: Part | None = None) -> None:
        object.__setattr__(self, "public", holding(as_lift(public, "Downlink"), "Downlink"))
        object.__setattr__(self, "personal", None if personal is None else _differences(personal))

    @staticmethod
    def of(part: Part | Downlink) -> Downlink:
        """A Downlink as it is; of a codec, one without personal updates."""
        return part if isinstance(part, Downlink) else Downlink(part)

    def map(self, change: Callable[[Lift], Lift]) -> Downlink:
        """Both codecs changed."""
        return Downlink(change(self.public), None if self.personal is None else change(self.personal))

    def __repr__(self) -> str:
        return f"Downlink({self.public!r}{'' if self.personal is None else f', personal={self.personal!r}'})"


def _differences(personal: Part) -> Lift:
    given = personal if isinstance(personal, Lift) else as_lift(Delta(personal), "Downlink")  # pyright: ignore
    lift = holding(given, "Downlink")
    if lift.stateless or not patchable(lift):
        raise LocalError(
            f"Downlink: personal takes one stateless codec, such as chain(Quantize(bits=4), Rans()); got {personal!r}"
        )
    return lift


def holding(lift: Lift, owner: str) -> Lift:
    """The lift, changed so that its state holds the whole value if it holds any of it; LocalError if it cannot."""
    if isinstance(lift, Route) and not lift.stateless:
        lift = Route(tuple((pattern, LastValue(codec) if codec.stateless else codec) for pattern, codec in lift.rules))
    if not lift.stateless and not all(isinstance(codec, Delta | LastValue) for codec in lift.inner):
        raise LocalError(f"{owner}: every group needs a stateless codec or Delta(...); got {lift!r}")
    return lift


def patchable(lift: Lift) -> bool:
    """Whether the shared state is the value and nothing else, so that a patch leads on from it."""
    return not lift.stateless and all(part.stateless for codec in lift.inner for part in codec.inner)


def vectors(state: Any) -> list[Tensor]:
    """The vector of each group, in a state of Delta or LastValue: both begin with it."""
    return [group[0] for group in state]


def value_of(lift: Lift, state: Any, spec: AnySpec) -> Any:
    """The value that a state of Delta or LastValue stands for, cut back into tensors, in memory of its own."""
    return cut([large.clone(x) for x in vectors(state)], lift.groups(spec), spec)


def with_vectors(state: Any, changed: Sequence[Tensor]) -> Any:
    """The state with other vectors."""
    return tuple((x, *group[1:]) for x, group in zip(changed, state, strict=True))
