"""The receiver of a broadcast: bundles of entries, snapshots, patches, seeds and personal frames."""

import hashlib
import zlib

import numpy as np

from second_decoder.bits import WORDS, Bits, cast, wide
from second_decoder.frames import Header, Reader, leb, next_history, unbundled
from second_decoder.keys import Name
from second_decoder.vectors import entries, read_key, start


def digest(arrays, types):
    """8 bytes of BLAKE2b over the words of all arrays, in their types, little-endian."""
    found = hashlib.blake2b(digest_size=8, person=b"fewbits.value")
    for x, dtype in zip(arrays, types, strict=True):
        if dtype == "bfloat16":
            words = (x.astype("<f4").view("<u4") >> 16).astype("<u2")
        else:
            words = x.astype(f"<f{WORDS[dtype] // 8}")
        found.update(words.tobytes())
    return found.digest()


class Holder:
    """What one receiver holds; `hashes`: "", "seed of ", "patch of " or "own " for each codec hash."""

    def __init__(self, text, personal_text, tensors, hashes, first, personal_first, build):
        self.tensors, self.hashes, self.build = tensors, hashes, build
        self.first, self.personal_first, self.personal_text, self.text = first, personal_first, personal_text, text
        self.key_first = first  # the history that key frames have
        self.public = Reader(text, tensors)
        self.personal = Reader(personal_text, tensors) if personal_text else None
        self.value, self.version, self.history, self.alone = None, 0, first, False

    def begin(self, start):
        """Take the start, by name: what `since_start` tells values apart from."""
        names = [name for name, *_ in self.tensors]
        found = {
            i: np.concatenate([start[names[j]] for j in places])
            for i, (_, places, (name, _)) in enumerate(self.public.groups)
            if name == "since_start"
        }
        if found:
            assert all(seen.dtype == "float32" for seen, _, (name, _) in self.public.groups if name == "since_start")
            text = self.first.to_bytes(3, "big") + b"".join(x.astype("<f4").tobytes() for x in found.values())
            digest = hashlib.blake2b(text, digest_size=3, person=b"fewbits.history").digest()
            self.public.agreed, self.key_first = found, int.from_bytes(digest, "big")

    def receive(self, bundle):
        """(the value, the acknowledgement)"""
        if bundle[0] == 0:
            ack, end = leb(bundle, 1)
            assert bundle[end:] == zlib.crc32(bundle[:end]).to_bytes(4, "big")
            assert ack < 2**16 and self.value is not None
            return self.value, ack
        return self.follow(unbundled(bundle))

    def follow(self, frames):
        for frame in frames:
            header = Header(frame)
            kinds = {"": self.entry, "seed of ": self.seed, "patch of ": self.patch, "own ": self.difference}
            kinds[self.hashes[header.codec]](header, frame)
        return self.value, header.ack

    def entry(self, header, frame):
        if header.snapshot:
            self.public.adopt(frame)
            return self.moved([state[0] for state in self.public.states], header.sequence, header.history)
        if header.sequence < self.version and not self.alone:
            return None
        assert header.key or not self.alone
        self.public.history, self.public.expects = self.history, self.version
        assert header.history == (self.key_first if header.key else self.history)
        self.value = self.public.receive(frame)
        self.version, self.history, self.alone = header.sequence + 1, self.public.history, False
        return None

    def moved(self, vectors, version, history):
        """The public value is each group's vector."""
        self.value = self.cut(self.public, vectors)
        self.version, self.history, self.alone = version, history, False

    def cut(self, reader, vectors):
        found = [np.zeros(0)] * len(self.tensors)
        for x, (_, places, _) in zip(vectors, reader.groups, strict=True):
            reader.cut(x, places, found)
        return found

    def laid(self, reader):
        """The value as each group's vector."""
        return [
            cast(np.concatenate([self.value[i] for i in places]), wide(seen.dtype)) for seen, places, _ in reader.groups
        ]

    def begun(self, reader):
        """States of a codec whose ends both know the value."""
        fresh = [start(inner, seen) for seen, _, inner in reader.groups]
        return [
            (x, state[1]) if isinstance(state, tuple) else state
            for x, state in zip(self.laid(reader), fresh, strict=True)
        ]

    def seed(self, header, frame):
        if self.version and not self.alone:
            return
        bits = Bits(frame[16:])
        self.value = self.build(read_key(bits))
        assert digest(self.value, [dtype for *_, dtype in self.tensors]) == bits.bytes(8)
        bits.finish()
        assert header.sequence == 1 and header.history == self.first
        self.version, self.history, self.alone = 1, header.history, False
        self.public.states = self.begun(self.public)

    def patch(self, header, frame):
        if header.sequence <= self.version and not self.alone:
            return
        bits = Bits(frame[16:])
        since = header.sequence - bits.delta()
        assert not self.alone and 1 <= since <= self.version
        expected, vectors = bits.bytes(8), []
        for (seen, _, _), (h, _) in zip(self.public.groups, self.public.states, strict=True):
            vectors.append(entries(h, wide(seen.dtype), bits))
        bits.finish()
        assert digest(vectors, [wide(seen.dtype) for seen, _, _ in self.public.groups]) == expected
        self.public.states = [(x, inner) for x, (_, inner) in zip(vectors, self.public.states, strict=True)]
        self.moved(vectors, header.sequence, header.history)

    def difference(self, header, frame):
        if header.key:
            self.personal.restart()
            self.history = self.personal_first
        elif not self.alone:
            self.personal.states = self.begun(self.personal)
        assert header.history == self.history
        common = Name(0).fold("own", header.sequence)
        self.value = self.personal.message(Bits(frame[16:]), common)
        self.version, self.alone = header.sequence, True
        self.history = next_history(header.history, common, header.sequence, frame[16:])
