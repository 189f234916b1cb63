"""The payload as a string of 0 and 1, and the few shapes that bits come in."""

import numpy as np

WORDS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


class Bits:
    def __init__(self, data):
        self.text, self.at = "".join(f"{byte:08b}" for byte in bytes(data)), 0

    def string(self, n):
        found = self.text[self.at : self.at + n]
        assert len(found) == n, "the payload ends too early"
        self.at += n
        return found

    def take(self, n):
        return int("0" + self.string(n), 2)

    def align(self):
        assert self.take(-self.at % 8) == 0, "the fill is not zero"

    def bytes(self, n):
        self.align()
        return bytes(self.take(8) for _ in range(n))

    def packed(self, n):
        if n >= 8:
            self.align()
        return self.string(n)

    def zeros(self):
        n = self.text.index("1", self.at) - self.at
        self.at += n + 1
        return n

    def gamma(self):
        n = self.zeros()
        return 1 << n | self.take(n)

    def delta(self):
        size = self.gamma() - 1
        return 1 << size | self.take(size)

    def scalar(self):
        return float(np.frombuffer(self.take(32).to_bytes(4, "big"), ">f4")[0])

    def finish(self):
        self.align()
        assert self.at == len(self.text), "bits are left over"


def as_floats(words, dtype):
    """Words as float32 or float64 values; half types are exact in float32."""
    if dtype == "bfloat16":
        return (np.array(words, np.uint32) << np.uint32(16)).view(np.float32)
    found = np.array(words, f"u{WORDS[dtype] // 8}").view(f"f{WORDS[dtype] // 8}")
    return found.astype(np.float32) if dtype == "float16" else found


def wide(dtype):
    return "float64" if dtype == "float64" else "float32"


def cast(x, dtype):
    """Values rounded to a type; those of half types are kept in float32."""
    if dtype == "float64":
        return x.astype(np.float64)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
        if dtype == "float16":
            return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        words = x.view(np.uint32).astype(np.uint64)
        kept = (words + 0x7FFF + (words >> 16 & 1)) >> 16 << 16
        return kept.astype(np.uint32).view(np.float32)
    return x


def largest(dtype):
    return {
        "float16": 65504.0,
        "bfloat16": float.fromhex("0x1.fep127"),
        "float32": float.fromhex("0x1.fffffep127"),
    }.get(dtype, float(np.finfo(np.float64).max))


def times(x, constant, dtype):
    """A vector times a constant worked out in double."""
    return cast(x * x.dtype.type(constant), dtype)
