"""The receiver of a run in random subspaces: theta from theta_e, finals and s."""

import numpy as np

from second_decoder.bases import expand
from second_decoder.bits import Bits
from second_decoder.frames import Header, unbundled
from second_decoder.keys import Name
from second_decoder.transforms import Vector
from second_decoder.vectors import chain, read_key, stored

MOVED = {"coder": ("fixed", {}), "transforms": [("threshold", {})]}


class Theta:
    """Holds theta."""

    def __init__(self, size, dim, subspaces, basis, scale, seed, hashes, build=None, plain=0):
        """`hashes`: what each codec hash stands for; `build` makes theta_0 from a key's text; `plain`: buffers."""
        self.plain = plain
        self.size, self.dim, self.subspaces = size, dim, subspaces
        self.basis, self.scale, self.seed, self.hashes, self.build = basis, scale, seed, hashes, build
        self.base, self.epoch, self.version = None, 0, 0

    def moved(self, epoch, values):
        """A s of an epoch, then how far the buffers are away."""
        (s, away), rest = values, self.size - self.plain
        total = np.zeros(rest, np.float32)
        for j in range(self.subspaces):
            part = s[j * self.dim : (j + 1) * self.dim]
            if any(part):
                key = Name(self.seed).fold("epoch", epoch, "subspace", j)
                total = total + expand(self.basis, self.scale, rest, self.dim, key, part)
        return np.concatenate([total, away])

    def receive(self, bundle):
        now = None
        for frame in unbundled(bundle):
            header, bits = Header(frame), Bits(frame[16:])
            kind = self.hashes[header.codec]
            if kind == "seed":
                if self.base is None:
                    self.base = self.build(read_key(bits))
                continue
            assert header.key and not header.snapshot
            if kind == "theta_e":
                x = stored(self.size, "float32", bits)
            else:
                away = (
                    chain(MOVED, Vector(self.plain, "float32"), bits, None) if self.plain else np.zeros(0, np.float32)
                )
                x = stored(self.dim * self.subspaces, "float32", bits), away
            bits.finish()
            if kind == "theta_e":
                self.base, self.epoch = x, header.sequence
            elif kind == "final":
                if header.sequence < self.epoch:
                    continue
                assert self.base is not None and header.sequence == self.epoch
                self.base, self.epoch = self.base + self.moved(self.epoch, x), self.epoch + 1
            else:
                now, self.version = x, header.sequence + 1
        return self.base + self.moved(self.epoch, now)
