"""Keys: named random streams, all derived from one root seed by labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch

from fewbits.checks import check_whole
from fewbits.errors import LocalError

Label = int | str


@dataclass(frozen=True)
class Key:
    """The name of a random stream that is the same on every machine, device and library version.

    The stream is Philox4x64-10 in counter mode; its 128-bit key is BLAKE2b of the seed and the labels. Signs, uniforms
    and subsets are made here from raw words, because the distributions of a library may change.

    Args:
        seed: any integer; 128 random bits or more where the key must be secret.
        path: labels, integers or strings; `fold` appends to them.

    Raises:
        LocalError: the seed is not an integer, or a label is neither an integer nor a string.

    Example:
        >>> Key(0).fold("round", 3, "client", 7)
        Key(seed=0, path=('round', 3, 'client', 7))
        >>> Key(0).fold("signs").signs(4).tolist() == Key(0).fold("signs").signs(4).tolist()
        True

    References:
        Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """

    seed: int  # any integer
    path: tuple[Label, ...] = ()  # labels from the root to this purpose

    def __post_init__(self) -> None:
        check_whole("Key: the seed", self.seed)
        _check_labels(self.path)

    def fold(self, *labels: Label) -> Key:
        """Derive the key of a sub-purpose; labels are integers and strings."""
        _check_labels(labels)
        key = object.__new__(Key)  # the seed and the other labels were checked: a client's turn folds six keys
        key.__dict__.update(seed=self.seed, path=self.path + labels)
        return key

    def text(self) -> str:
        """Write this key as JSON, for `Key.parse`."""
        return json.dumps([self.seed, *self.path])

    @staticmethod
    def parse(text: str) -> Key:
        """Read a key from the JSON that `text` wrote; LocalError for other text.

        >>> Key.parse(Key(3).fold("round", 1).text())
        Key(seed=3, path=('round', 1))
        """
        try:
            seed, *path = json.loads(text)
            return Key(seed).fold(*path)
        except (ValueError, TypeError):
            raise LocalError(f"Key.parse: expected a JSON list of a seed and labels; got {text[:60]!r}") from None

    def digest(self, size: int = 16) -> bytes:
        """Hash this key to `size` bytes."""
        if size in (known := self.__dict__.setdefault("_digests", {})):
            return known[size]
        text = b""
        for x in (self.seed, *self.path):
            part = f"s{x}".encode() if isinstance(x, str) else b"i%d" % x
            text += len(part).to_bytes(4, "little") + part
        known[size] = hashlib.blake2b(text, digest_size=size, person=b"fewbits.key").digest()
        return known[size]

    def word(self) -> int:
        """Hash this key to a 64-bit integer, for generators that take a seed."""
        return int.from_bytes(self.digest(8), "little")

    def bits(self, n: int) -> np.ndarray:
        """Draw n raw 64-bit words.  # (n,) uint64"""
        key = np.frombuffer(self.digest(16), dtype="<u8")
        # random_raw reads the bit generator, whose stream NumPy guarantees; distributions may change.
        return np.random.Philox(key=key, counter=0).random_raw(n) if n else np.zeros(0, np.uint64)

    def signs(self, n: int) -> np.ndarray:
        """Draw n fair signs, -1 or +1.  # (n,) int8"""
        words = self.bits(-(-n // 64)).astype("<u8")
        return (1 - 2 * np.unpackbits(words.view(np.uint8), bitorder="little")[:n].astype(np.int8)).astype(np.int8)

    def uniform(self, n: int) -> np.ndarray:
        """Draw n multiples of 2^-24 in [0, 1).  # (n,) float32"""
        words = self.bits(-(-n // 2)).astype("<u8").view("<u4")[:n]
        return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)

    def below(self, bound: int, n: int) -> np.ndarray:
        """Draw n integers in [0, bound), unbiased by rejection.  # (n,) int64"""
        if not 0 < bound < 2**62:
            raise LocalError(f"Key.below: bound must be in 1..2^62-1; got {bound}")
        limit = np.uint64(2**64 - 2**64 % bound - 1)
        found: list[np.ndarray] = []
        have, chunk = 0, 0
        while have < n:
            words = self.fold("below", chunk).bits(max(16, n - have))
            words = words[words <= limit]
            found.append((words % np.uint64(bound)).astype(np.int64))
            have, chunk = have + len(words), chunk + 1
        return np.concatenate(found)[:n] if found else np.zeros(0, np.int64)

    def subset(self, k: int, n: int) -> np.ndarray:
        """Draw a uniform k-subset of range(n), ascending.  # (k,) int64"""
        if not 0 <= k <= n:
            raise LocalError(f"Key.subset: need 0 <= k <= n; got k={k}, n={n}")
        if k > n // 2:
            chosen = np.ones(n, dtype=bool)
            chosen[self.subset(n - k, n)] = False
            return np.flatnonzero(chosen)
        found = np.zeros(0, np.int64)
        step = 0
        while len(found) < k:  # k <= n/2: every draw is new with probability over 1/2
            drawn = self.fold("subset", step).below(n, k - len(found) + 8)
            both = np.concatenate([found, drawn])
            first = np.sort(np.unique(both, return_index=True)[1])[:k]  # first appearances, in order of drawing
            found, step = both[first], step + 1
        return np.sort(found)

    def permutation(self, n: int) -> np.ndarray:
        """Draw a permutation of range(n): the order of n distinct random words.  # (n,) int64"""
        return np.argsort(self.bits(n), kind="stable").astype(np.int64)

    def normal(self, n: int) -> np.ndarray:
        """Draw n standard normal values, rounded to multiples of 2^-16, at most 6.4 in size.  # (n,) float32

        They are quantiles (see `quantile`) of 32-bit words, computed in blocks that fit the cache.
        """
        words = self.bits(-(-n // 2)).astype("<u8").view("<u4")[:n]
        out = np.empty(n, np.float32)
        for start in range(0, n, 1 << 14):
            out[start : start + (1 << 14)] = _normal(words[start : start + (1 << 14)])
        return out

    def shuffle(self, n: int, rows: int = 1) -> np.ndarray:
        """Draw permutations of range(n), n <= 2^31: the order of words whose low bits are the index.

        It is faster than `permutation`. With b = log2(n), about n^2 / 2^(65 - b) pairs of words agree in their 64 - b
        high bits and keep their order.  # (rows, n) int32
        """
        if not 0 <= n <= 2**31:
            raise LocalError(f"Key.shuffle: n must be in 0..2^31; got {n}")
        low = np.uint64((1 << max(n - 1, 0).bit_length()) - 1)
        words = self.bits(rows * n).reshape(rows, n)
        words &= ~low
        words |= np.arange(n, dtype=np.uint64)
        words.sort(axis=1)  # all words differ, so every sorting algorithm gives the same order
        words &= low
        return words.astype(np.int32)

    def generator(self) -> torch.Generator:
        """Seed a torch generator, for draws that no peer must repeat, such as initial weights."""
        generator = torch.Generator()
        generator.manual_seed(self.word() & (2**63 - 1))
        return generator


LOG2 = 0.6931471805599453
CENTRE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
TAIL = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)


def _check_labels(labels: tuple[Label, ...]) -> None:
    for label in labels:  # True == 1, so a bool would make equal keys with different streams
        if type(label) is str or type(label) is int:  # at once: a client's turn asks sixteen times
            continue
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise LocalError(f"Key.fold: labels are integers and strings; got {label!r}")


def _normal(words: np.ndarray) -> np.ndarray:
    """Make one draw per word: the top bit is the sign; the rest, k, is the tail probability (k + 1/2) / 2^32."""
    size = np.rint(quantile(((words & np.uint32(0x7FFFFFFF)) + 0.5) * 2.0**-32) * 65536.0) * (1 / 65536.0)
    return np.where(words >> np.uint32(31), -size, size).astype(np.float32)


def quantile(p: np.ndarray) -> np.ndarray:
    """Compute the upper quantile x >= 0 of the normal distribution, 2^-33 <= p <= 1/2, to 1e-6.  # (n,) float64

    PPND7 of Wichura (1988, AS 241). It uses only +, -, *, /, square roots and powers of two, which every machine rounds
    alike; the logarithm of a library is not rounded alike.
    """
    q = 0.5 - p
    r = 0.180625 - q * q
    x = q * _polynomial(CENTRE[0], r) / _polynomial(CENTRE[1], r)
    far = np.flatnonzero(q > 0.425)
    r = np.sqrt(-_log(p[far])) - 1.6
    x[far] = _polynomial(TAIL[0], r) / _polynomial(TAIL[1], r)
    return x


def _polynomial(coefficients: tuple[float, ...], r: np.ndarray) -> np.ndarray:
    """Evaluate c0 + c1 r + c2 r^2 + ... by Horner's rule."""
    total = np.full_like(r, coefficients[-1])
    for c in coefficients[-2::-1]:
        total *= r
        total += c
    return total


def _log(p: np.ndarray) -> np.ndarray:
    """Compute log p to 1e-9: exponent * log 2 + 2 artanh((m - 1)/(m + 1)), m the mantissa."""
    m, exponent = np.frexp(p)
    s = (m - 1) / (m + 1)
    return exponent * LOG2 + 2 * s * _polynomial(tuple(1 / k for k in range(1, 19, 2)), s * s)
