"""Patch: all words that changed between two versions, as they are now.

Exact whatever codec the entries have, and never longer than what changed: the entries of m rounds, merged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.codecs import Codec, Lift
from fewbits.codecs.base import words
from fewbits.codecs.lift import AnySpec
from fewbits.codecs.wrapper import read_vector, write_vector
from fewbits.coders import read_support, write_support
from fewbits.coders.elias import read_delta, write_delta
from fewbits.errors import DesyncError
from fewbits.link.downlink import value_of, vectors, with_vectors
from fewbits.link.identity import codec_hash
from fewbits.link.seed import DIGEST_BYTES, digest
from fewbits.link.track import Track
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter, Frame, Header
from fewbits.wire.frame import HEADER_BYTES, MAX_SEQUENCE


class Changes:
    """For every word of the public value, the version in which it changed last."""

    def __init__(self, state: Any) -> None:
        """`state`: of Delta or Hold, at the oldest version that will be asked for."""
        self._last = [torch.zeros(len(x), dtype=torch.int32) for x in vectors(state)]  # each (n,)

    def note(self, before: Any, after: Any, version: int) -> None:
        """The state became `after` with this version."""
        for last, old, new in zip(self._last, vectors(before), vectors(after), strict=True):
            last.masked_fill_(words(old) != words(new), version)

    def least_bytes(self, version: int) -> int:
        """A patch from this version has at least so many bytes: its header, its digest and its words."""
        return HEADER_BYTES + DIGEST_BYTES + 4 * sum(int((last > version).sum()) for last in self._last)

    def since(self, version: int) -> list[np.ndarray]:
        """Positions that changed after this version, ascending, by group.  # each (k,) int64"""
        return [torch.nonzero(last > version).reshape(-1).numpy() for last in self._last]


def patch_hash(codec: Codec, spec: AnySpec) -> int:
    """What names a patch of this broadcast."""
    return codec_hash(codec, spec, "patch of ")


def write_patch(codec: Lift, spec: AnySpec, now: Track, since: int, changed: list[np.ndarray]) -> bytes:
    """A frame that leads from any version from `since` on to `now`."""
    out = BitWriter()
    write_delta(now.version - since, out)
    out.write_bytes(digest(vectors(now.state)))
    for x, positions in zip(vectors(now.state), changed, strict=True):
        write_delta(len(positions) + 1, out)
        write_support(positions, len(x), out)
        write_vector(x[torch.from_numpy(positions)], _some(x, len(positions)), out)
    header = Header(patch_hash(codec, spec), now.version, now.history, snapshot=True)
    return bytes(Frame(header, out.finish()))


def read_patch(frame: Frame, codec: Lift, spec: AnySpec, track: Track) -> Track:
    """What the receiver holds after it; DesyncError, when it is not for what the receiver holds."""
    src, header = BitReader(frame.payload), frame.header
    since = header.sequence - read_delta(src, MAX_SEQUENCE)
    expected = src.read_bytes(DIGEST_BYTES).tobytes()
    if track.own or not 1 <= since <= track.version:
        raise DesyncError(
            f"the patch leads from public version {since} to {header.sequence}; we hold "
            + ("a value of our own" if track.own else f"version {track.version}")
        )
    changed = [_patched(x, src) for x in vectors(track.state)]
    src.finish()
    if digest(changed) != expected:
        raise DesyncError(f"the patch to version {header.sequence} does not give the server's value: the ends differ")
    state = with_vectors(track.state, changed)
    return Track(value_of(codec, state, spec), header.sequence, header.history, state)


def _patched(x: Tensor, src: BitReader) -> Tensor:
    """x with the words that come next.  # (n,)"""
    count = read_delta(src, len(x) + 1) - 1
    positions = torch.from_numpy(read_support(count, len(x), src))
    found = x.clone()
    found[positions] = read_vector(_some(x, count), src)
    return found


def _some(x: Tensor, count: int) -> Spec:
    return Spec((count,), str(x.dtype).removeprefix("torch."))
