"""The receiver of a run inside a subspace: theta0 at first contact, then any bundle."""

from second_decoder.bits import Bits
from second_decoder.broadcast import digest
from second_decoder.frames import Header, unbundled
from second_decoder.vectors import read_key, stored


class Inside:
    """Holds theta0, and what any receiver holds."""

    def __init__(self, holder, size, begin, build):
        """`begin`: whether a codec hash is that of a seed of theta0, or of its numbers."""
        self.holder, self.size, self.begin, self.build = holder, size, begin, build
        self.start = None

    def receive(self, bundle):
        frames = unbundled(bundle) if bundle[0] else []
        if not frames or Header(frames[0]).codec not in self.begin:
            assert self.start is not None
            return self.holder.receive(bundle)
        start = self.read(Header(frames[0]), Bits(frames[0][16:]))
        found = self.holder.follow(frames[1:])
        self.start = start
        return found

    def read(self, header, bits):
        if self.begin[header.codec]:
            start = self.build(read_key(bits))
            assert header.sequence == 1 and digest([start], ["float32"]) == bits.bytes(8)
        else:
            assert not header.snapshot and header.sequence == 0
            start = stored(self.size, "float32", bits)
        bits.finish()
        return start
