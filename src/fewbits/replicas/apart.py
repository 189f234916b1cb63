"""check_apart: models that one process trains may share no memory, or what one learns moves another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fewbits.codecs.same_memory import memory_of
from fewbits.errors import LocalError
from fewbits.replicas.replica import Replica


class _Place(NamedTuple):
    """Where a parameter lies."""

    device: str
    start: int
    stop: int
    number: int  # of the parameter in its model
    rank: int
    name: str


def check_apart(replicas: Sequence[Replica]) -> None:
    """LocalError naming the first trainable parameter that lies in the memory of another model's.

    A program may replace tensors, as `load_state_dict(assign=True)` does, so this is asked before every exchange. A
    model that is not the one of the start is left out: it sends nothing, and gets nothing before it is repaired.
    """
    if len(replicas) < 2:
        return
    places = [
        _Place(str(x.device), *memory_of(x), number, replica.rank, name)
        for replica in replicas
        for number, (name, x) in enumerate(_trained(replica).items())
        if x.numel()
    ]
    for a, b in sorted(_meeting(places), key=lambda pair: (pair[0].number, pair[0].rank))[:1]:
        what = a.name if a.name == b.name else f"the memory of {a.name} and {b.name}"
        ranks = f"ranks {a.rank} and {b.rank}"
        raise LocalError(f"Replicas: {ranks} share {what}; copy.deepcopy the model, or load clones of its tensors")


def _trained(replica: Replica) -> Mapping[str, Tensor]:
    try:
        return replica.tensors.now().trained
    except LocalError:
        return {}


def _meeting(places: Sequence[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """Two places of different ranks that lie in each other, the lower rank first; none when there are none."""
    furthest: _Place | None = None
    for place in sorted(places):
        if furthest is None or furthest.device != place.device or furthest.stop <= place.start:
            furthest = place
            continue
        if furthest.rank != place.rank:
            first, second = sorted((furthest, place), key=lambda one: one.rank)
            yield first, second
        if place.stop > furthest.stop:
            furthest = place
