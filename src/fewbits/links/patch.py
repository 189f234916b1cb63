"""Patch: all words that changed between two versions, as they are now.

Exact whatever codec the entries have, and never longer than what changed: the entries of m rounds, merged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import Lift, large
from fewbits.codecs.base import raw_bits, wide
from fewbits.codecs.lifts.lift import AnySpec
from fewbits.codecs.wrappers.wrapper import read_entries, write_entries
from fewbits.coders.elias import read_delta, write_delta
from fewbits.errors import DesyncError
from fewbits.links.downlink import value_of, vectors, with_vectors
from fewbits.links.identity import PATCH, codec_hash
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.shared_init import DIGEST_BYTES, digest
from fewbits.wire import BitReader, BitWriter, Frame, Header
from fewbits.wire.frame import HEADER_BYTES, MAX_SEQUENCE


class Changes:
    """The version in which each word of the public value changed last."""

    def __init__(self, state: Any) -> None:
        """`state`: of Delta or LastValue, at the oldest version that will be asked for."""
        self._last = [np.zeros(len(x), np.int32) for x in vectors(state)]  # each (n,)

    def note(self, before: Any, after: Any, version: int) -> None:
        """The state became `after` with this version."""
        for last, old, new in zip(self._last, vectors(before), vectors(after), strict=True):
            np.copyto(last, version, where=raw_bits(old).numpy() != raw_bits(new).numpy())

    def least_bytes(self, version: int) -> int:
        """A lower bound on the bytes of a patch from this version: header, digest and changed words."""
        return HEADER_BYTES + DIGEST_BYTES + 4 * sum(int(np.count_nonzero(last > version)) for last in self._last)

    def since(self, version: int) -> list[np.ndarray]:
        """Positions that changed after this version, ascending, by group.  # each (k,) int64"""
        return [np.flatnonzero(last > version) for last in self._last]


def write_patch(
    codec: Lift, spec: AnySpec, now: ReceiverState, since: int, changed: list[np.ndarray], digested: bytes
) -> bytes:
    """A frame that leads to `now` from any version since `since`; `digested`: the digest of its vectors."""
    out = BitWriter()
    with out.section("steps"):
        write_delta(now.version - since, out)
    with out.section("digest"):
        out.write_bytes(digested)
    for group, x, positions in zip(codec.groups(spec), vectors(now.state), changed, strict=True):
        with out.section(group.name):
            places = torch.from_numpy(positions)
            write_entries(places, x[places], wide(group.spec), out)
    header = Header(codec_hash(codec, spec, PATCH), now.version, now.history, snapshot=True)
    return bytes(Frame(header, out.finish()))


class Patch(NamedTuple):
    """What is in a patch's payload."""

    steps: int  # versions back that it leads from, at most
    digest: bytes  # of the value that it leads to
    raw_bits: list[tuple[Tensor, Tensor]]  # (positions, values there) by group  # each (k,) int64 and (k,)


def parse_patch(src: BitReader, codec: Lift, spec: AnySpec) -> Patch:
    """Read what `write_patch` wrote."""
    with src.section("steps"):
        steps = read_delta(src, MAX_SEQUENCE)
    with src.section("digest"):
        expected = src.read_bytes(DIGEST_BYTES).tobytes()
    raw_bits = []
    for group in codec.groups(spec):
        with src.section(group.name):
            raw_bits.append(read_entries(wide(group.spec), src))
    return Patch(steps, expected, raw_bits)


def read_patch(frame: Frame, codec: Lift, spec: AnySpec, before: ReceiverState) -> ReceiverState:
    """What the receiver holds after it; DesyncError when it does not lead on from `before`."""
    src, header = BitReader(frame.payload), frame.header
    patch = parse_patch(src, codec, spec)
    src.finish()
    since = header.sequence - patch.steps
    if before.personal or not 1 <= since <= before.version:
        raise DesyncError(
            f"the patch leads from public version {since} to {header.sequence}; we hold "
            + ("a personal value" if before.personal else f"version {before.version}")
        )
    changed = [large.clone(x) for x in vectors(before.state)]
    for x, (positions, values) in zip(changed, patch.raw_bits, strict=True):
        x[positions] = values
    if digest(changed) != patch.digest:
        raise DesyncError(f"the patch to version {header.sequence} does not give the server's value: the ends differ")
    state = with_vectors(before.state, changed)
    return ReceiverState(value_of(codec, state, spec), header.sequence, header.history, state)
