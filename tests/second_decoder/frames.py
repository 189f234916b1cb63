"""Whole frames of a link: lifts, headers, histories and bundles."""

import fnmatch
import hashlib
import zlib

import numpy as np

from second_decoder.bits import Bits, cast
from second_decoder.keys import Name
from second_decoder.text import parse
from second_decoder.transforms import Vector
from second_decoder.vectors import decode, read_state, start


class Header:
    """The 16 bytes."""

    def __init__(self, frame):
        bits = Bits(frame[:16])
        assert (bits.take(8), bits.take(4)) == (0xFB, 1)
        self.key, self.snapshot = bits.take(1), bits.take(1)
        assert bits.take(2) == 0
        self.codec, self.sequence, self.ack, self.history = bits.take(16), bits.take(24), bits.take(16), bits.take(24)
        assert bits.take(32) == zlib.crc32(frame[16:] + frame[:12])


def next_history(history, common, sequence, payload):
    text = history.to_bytes(3, "big") + common.digest(8) + sequence.to_bytes(4, "big")
    text += zlib.crc32(payload).to_bytes(4, "big")
    return int.from_bytes(hashlib.blake2b(text, digest_size=3, person=b"fewbits.history").digest(), "big")


def groups(codec, tensors):
    """(places of the tensors, the codec) of each group.  # tensors: [(name, elements, dtype)]"""
    name, given = codec
    if name == "each":
        return [([i], given["codec"]) for i in range(len(tensors))]
    if name != "route":
        return [(list(range(len(tensors))), given["codec"] if name == "flat" else codec)]
    rules = given["rules"]
    first = [next(r for r, (p, _) in enumerate(rules) if fnmatch.fnmatchcase(t, p)) for t, _, _ in tensors]
    return [([i for i, own in enumerate(first) if own == r], inner) for r, (_, inner) in enumerate(rules)]


def laid(places, tensors):
    """The vector of a group."""
    types = {tensors[i][2] for i in places}
    dtype = types.pop() if len(types) == 1 else "float64" if "float64" in types else "float32"
    lengths = tuple(tensors[i][1] for i in places)
    return Vector(sum(lengths), dtype, lengths if len(lengths) > 1 else ())


class Reader:
    """The receiving end of a link.  # tensors: [(name, elements, dtype)]"""

    def __init__(self, text, tensors, common=Name(0)):
        self.tensors, self.common = tensors, common
        self.groups = [(laid(places, tensors), places, inner) for places, inner in groups(parse(text), tensors)]
        self.agreed = {}  # the start's vectors, by group
        self.restart()
        self.history, self.expects = None, 0  # the first history is not this reader's business

    def restart(self):
        self.states = [self.agreed.get(i, start(inner, seen)) for i, (seen, _, inner) in enumerate(self.groups)]

    def receive(self, frame, common=None):
        """One flat array per tensor."""
        header = Header(frame)
        assert not header.snapshot
        assert header.sequence >= self.expects if header.key else header.sequence == self.expects
        if header.key:
            self.restart()
        elif self.history is not None:
            assert header.history == self.history
        common = common or self.common.fold(header.sequence)
        found = self.message(Bits(frame[16:]), common)
        self.history = next_history(header.history, common, header.sequence, frame[16:])
        self.expects = header.sequence + 1
        return found

    def message(self, bits, common):
        found = [np.zeros(0)] * len(self.tensors)
        for i, (seen, places, inner) in enumerate(self.groups):
            key = common if len(self.groups) == 1 else common.fold(i)
            x, self.states[i] = decode(inner, seen, bits, key, self.states[i])
            self.cut(x, places, found)
        bits.finish()
        return found

    def cut(self, x, places, found):
        at = 0
        for place in places:
            _, n, dtype = self.tensors[place]
            found[place] = cast(x[at : at + n], dtype)
            at += n

    def adopt(self, frame):
        """Take over a snapshot."""
        header, bits = Header(frame), Bits(frame[16:])
        assert header.snapshot
        self.states = [read_state(inner, seen, bits) for seen, _, inner in self.groups]
        bits.finish()
        self.history, self.expects = header.history, header.sequence


def unbundled(data):
    """The frames of a bundle."""
    count, at = leb(data, 0)
    found = []
    for _ in range(count):
        size, at = leb(data, at)
        found.append(data[at : at + size])
        at += size
    assert at == len(data)
    return found


def leb(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
