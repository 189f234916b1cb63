"""A snapshot for a rank that joins a run: all that is equal at the ranks that are there, as one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fewbits.coders import read_delta, write_delta
from fewbits.errors import WireError
from fewbits.links.finite import all_finite
from fewbits.links.identity import codec_hash
from fewbits.replicas.joined import joined
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.outer_model import OuterModel, OuterState
from fewbits.replicas.replica import MARGIN, Replica
from fewbits.replicas.state_parts import MOST
from fewbits.replicas.tensors import vector_of
from fewbits.wire import BitReader, BitWriter, Frame, Header

KIND = "replicas of "  # of frame, for `codec_hash`
STATE_BYTES = 32  # of a link's end, for each number that travels: two vectors of float64, and what lies beside them


class Snapshot(NamedTuple):
    """What a newcomer begins with."""

    steps: int  # inner steps at the last outer step
    exchanges: int
    parts: list[tuple[OuterState, MeanLink]]  # by fragment
    whole: memoryview  # buffers of integers


def write_snapshot(replica: Replica) -> memoryview:
    """Outer model, moments and receiving ends of every fragment, and buffers of integers, as a frame."""
    out = BitWriter()
    with out.section("counts"):
        for count in (replica.round_start, replica.exchanges, len(replica.ranks), *replica.ranks):
            write_delta(count + 1, out)
    for part in replica.outer:
        with out.section("fragment"):
            _write_part(part, out)
    with out.section("buffers"):
        out.write_bytes(replica.tensors.whole())
    header = Header(_hash(replica), 0, 0, snapshot=True)
    return joined(Frame.seal(header, out.chunks())[0])


def read_snapshot(frame: bytes | memoryview, replica: Replica, ranks: Sequence[int]) -> Snapshot:
    """Undo `write_snapshot`, at a replica that has not begun; it stays as it is.

    Args:
        frame: as it came.
        replica: of the same model and terms.
        ranks: those whose ends the snapshot must have.

    Raises:
        WireError: the frame is damaged, is of another model, method or ranks, or has values that are not finite.
    """
    parsed = Frame.parse(frame)
    if not parsed.header.snapshot or parsed.header.codec != _hash(replica):
        raise WireError("the frame is no snapshot of this model and method")
    src = BitReader(parsed.payload)
    with src.section("counts"):
        steps, exchanges = (read_delta(src, MOST) - 1 for _ in range(2))
        found = [read_delta(src, 1 << 32) - 1 for _ in range(read_delta(src, len(ranks) + 1) - 1)]
    if found != list(ranks):
        raise WireError(f"the snapshot has the links of ranks {found}; those of {list(ranks)} are needed")
    parts = []
    for part in replica.outer:
        with src.section("fragment"):
            parts.append(_read_part(part, found, src))
    with src.section("buffers"):
        whole = src.read_bytes(replica.tensors.whole_bytes)
    src.finish()
    return Snapshot(steps, exchanges, parts, whole.data)


def begin_from(replica: Replica, found: Snapshot) -> None:
    """Put a snapshot into a replica's module, and begin this rank's link; `resume_from` does the rest."""
    replica.steps, replica.exchanges = found.steps, found.exchanges
    replica.senders = replica.begin_links()
    replica.tensors.write_whole(found.whole)
    for part, (state, _) in zip(replica.outer, found.parts, strict=True):
        replica.tensors.write(state.theta, part.names)
    replica.tensors.refresh()


def resume_from(outer: Sequence[OuterModel], found: Snapshot) -> None:
    """Put a snapshot into an outer model of its own."""
    for part, (state, link) in zip(outer, found.parts, strict=True):
        part.resume(state, link)


def most_snapshot_bytes(replica: Replica, ranks: int) -> int:
    """The longest snapshot with the links of so many ranks that is taken."""
    parts = [part.state for part in replica.outer]
    values = sum(state.theta.nbytes + sum(m.nbytes for m in state.moments) for state in parts)
    links = ranks * (STATE_BYTES * sum(state.theta.numel() for state in parts) + MARGIN)
    return values + links + replica.tensors.whole_bytes + MARGIN


def _hash(replica: Replica) -> int:
    return codec_hash(replica.terms.codec, replica.tensors.spec(replica.tensors.like), KIND)


def _write_part(part: OuterModel, out: BitWriter) -> None:
    theta, moments, rounds = part.state
    write_delta(rounds + 1, out)
    for vector in (theta, *moments):
        out.write_bytes(vector.numpy())
    assert isinstance(part.link, MeanLink)
    for end in part.link.dump():
        write_delta(len(end) + 1, out)
        out.write_bytes(end)


def _read_part(part: OuterModel, ranks: Sequence[int], src: BitReader) -> tuple[OuterState, MeanLink]:
    rounds = read_delta(src, MOST) - 1
    theta, *moments = (_read_like(like, src) for like in (part.state.theta, *part.state.moments))
    part.check(theta)
    link = MeanLink(part.codec, part.spec, 0)
    link.regroup(ranks, joined=ranks)
    link.load([_read_end(src) for _ in ranks])
    return OuterState(theta, tuple(moments), rounds), link


def _read_like(like: Tensor, src: BitReader) -> Tensor:
    vector = vector_of(src.read_bytes(like.nbytes).data, like.dtype)
    if not all_finite(vector):
        raise WireError("the snapshot has values that are not finite")
    return vector


def _read_end(src: BitReader) -> bytes:
    length = read_delta(src, src.remaining + 1) - 1
    data: np.ndarray = src.read_bytes(length)
    return data.tobytes()
