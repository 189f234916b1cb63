"""What both ends draw from a key and never send."""

import hashlib
import json
import math
from fractions import Fraction

import numpy as np

FULL = 2**64
A = (3.3871327179, 50.434271938, 159.29113202, 59.109374720)
B = (1.0, 17.895169469, 78.757757664, 67.187563600)
C = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103)
D = (1.0, 0.73700164250, 0.12021132975)


class Name:
    """A key: a seed and labels."""

    def __init__(self, seed, *labels):
        self.seed, self.labels = seed, labels

    @staticmethod
    def of(text):
        return Name(*json.loads(text))

    def fold(self, *labels):
        return Name(self.seed, *self.labels, *labels)

    def digest(self, size):
        parts = [f"i{self.seed}"] + [("s" if isinstance(x, str) else "i") + str(x) for x in self.labels]
        text = b"".join(len(p.encode()).to_bytes(4, "little") + p.encode() for p in parts)
        return hashlib.blake2b(text, digest_size=size, person=b"fewbits.key").digest()

    def word(self):
        return int.from_bytes(self.digest(8), "little")

    def bits(self, n):
        key = self.digest(16)
        k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
        found = []
        for block in range(1, -(-n // 4) + 1):
            found += philox(block, k0, k1)
        return found[:n]

    def halves(self, n):
        return [half for word in self.bits(-(-n // 2)) for half in (word % 2**32, word >> 32)][:n]

    def signs(self, n):
        words = self.bits(-(-n // 64))
        return np.array([1 - 2 * (words[i // 64] >> i % 64 & 1) for i in range(n)], np.int8)

    def uniform(self, n):
        return np.array([(half >> 8) * 2.0**-24 for half in self.halves(n)], np.float32)

    def below(self, bound, n):
        found, chunk = [], 0
        while len(found) < n:
            words = self.fold("below", chunk).bits(max(16, n - len(found)))
            found += [word % bound for word in words if word <= FULL - FULL % bound - 1]
            chunk += 1
        return found[:n]

    def subset(self, k, n):
        if k > n // 2:
            missing = set(self.subset(n - k, n))
            return [i for i in range(n) if i not in missing]
        found, step = [], 0
        while len(found) < k:
            for place in self.fold("subset", step).below(n, k - len(found) + 8):
                if place not in found and len(found) < k:
                    found.append(place)
            step += 1
        return sorted(found)

    def permutation(self, n):
        words = self.bits(n)
        return sorted(range(n), key=lambda i: (words[i], i))

    def shuffle(self, n, rows=1):
        b = max(n - 1, 0).bit_length()
        words, found = self.bits(rows * n), []
        for r in range(rows):
            own = sorted((words[r * n + i] >> b << b) + i for i in range(n))
            found.append([word % 2**b for word in own])
        return found

    def normal(self, n):
        return np.array([normal(half) for half in self.halves(n)], np.float32)


def philox(block, k0, k1):
    c0, c1, c2, c3 = block, 0, 0, 0
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (q >> 64) ^ c1 ^ k0, q % FULL, (p >> 64) ^ c3 ^ k1, p % FULL
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % FULL, (k1 + 0xBB67AE8584CAA73B) % FULL
    return [c0, c1, c2, c3]


def normal(half):
    p = (half % 2**31 + 0.5) * 2.0**-32
    size = round(Fraction(quantile(p) * 65536)) / 65536
    return -size if half >= 2**31 else size


def quantile(p):
    q = 0.5 - p
    r = 0.180625 - q * q
    if q <= 0.425:
        return q * poly(A, r) / poly(B, r)
    r = math.sqrt(-log(p)) - 1.6
    return poly(C, r) / poly(D, r)


def poly(coefficients, r):
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * r
        total = total + c
    return total


def log(p):
    m, e = math.frexp(p)
    s = (m - 1) / (m + 1)
    return e * 0.6931471805599453 + 2 * s * poly([1 / k for k in range(1, 18, 2)], s * s)
