"""The receiver of a downlink with a start: the start at first contact, then any bundle."""

from second_decoder.bits import Bits
from second_decoder.broadcast import digest
from second_decoder.frames import Header, unbundled
from second_decoder.vectors import read_key, stored


class Started:
    """Holds the start, and what any receiver holds."""

    def __init__(self, holder, tensors, begin, build):
        """`tensors`: (name, elements, dtype) of the start; `begin`: by codec hash, whether it is the seed of it."""
        self.holder, self.tensors, self.begin, self.build = holder, tensors, begin, build
        self.start = None

    def receive(self, bundle):
        frames = unbundled(bundle) if bundle[0] else []
        if not frames or Header(frames[0]).codec not in self.begin:
            assert self.start is not None
            return self.holder.receive(bundle)
        start = self.read(Header(frames[0]), Bits(frames[0][16:]))
        self.holder.begin(start)
        found = self.holder.follow(frames[1:])
        self.start = start
        return found

    def read(self, header, bits):
        types = [dtype for *_, dtype in self.tensors]
        if self.begin[header.codec]:
            start = self.build(read_key(bits))
            assert header.sequence == 1 and digest(start.values(), types) == bits.bytes(8)
        else:
            assert not header.snapshot and header.sequence == 0 and set(types) == {"float32"}
            x, start = stored(sum(n for _, n, _ in self.tensors), "float32", bits), {}
            for name, n, _ in self.tensors:
                start[name], x = x[:n], x[n:]
        bits.finish()
        return start
