"""ModularEncoding: numbers as integers modulo 2^bits, whose sum is right even when no single message can be read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.checks import check_number, check_one_of, check_whole
from fewbits.codecs.base import Codec, Partial
from fewbits.coders import Fixed
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

ROUNDINGS = ("dithered", "nearest")
BEYOND = ("clip", "refuse")
CHUNK = 1 << 14  # values worked on at a time, so that they stay in cache


@dataclass(frozen=True)
class ModularEncoding:
    """x -> round(x / step) mod 2^bits, with step = clip / top and top = floor((2^(bits-1) - 1) / clients).

    The sum of the words of up to `clients` messages, whatever masks in them cancel, decodes to the sum of the vectors:
    levels are at most `top` in size, so it cannot wrap (the encoding of Bonawitz et al. 2017, section 7, with a
    dither). Words are uint64 below 2^bits. The dither makes the sum unbiased; it is no noise that protects anybody.

    Args:
        bits: of a word on the wire, 2 to 48; larger: smaller steps, more bytes.
        clip: largest size of an entry; larger: coarser steps.
        clients: most messages in one sum; larger: coarser steps.
        rounding: "dithered", floor(x/step + u), unbiased; or "nearest", with half the worst error.
        beyond: what happens to entries beyond `clip`: "clip" sets them to it, "refuse" raises LocalError.

    Raises:
        LocalError: an option is out of range, or the bits are too few for so many clients.

    Example:
        >>> encoding = ModularEncoding(bits=16, clip=1.0, clients=2, rounding="nearest")
        >>> words = [encoding.encode(torch.tensor([0.5, -0.25])) for _ in range(2)]
        >>> encoding.sum(words).round(decimals=3)
        tensor([ 1.0000, -0.5000], dtype=torch.float64)
    """

    bits: int = 32  # 2..48, of a word on the wire; larger: smaller steps, more bytes
    clip: float = 1.0  # largest size of an entry; larger: coarser steps
    clients: int = 1000  # most messages in one sum; larger: coarser steps
    rounding: str = "dithered"  # floor(x/step + u), unbiased; or "nearest", half the worst error
    beyond: str = "clip"  # entries beyond `clip` are set to it; or "refuse" them

    def __post_init__(self) -> None:
        check_whole("ModularEncoding: bits", self.bits, 2, 48)
        check_whole("ModularEncoding: clients", self.clients, 1, 2**47)
        check_number("ModularEncoding: clip", self.clip, "[1e-30, 1e30]", numpy=True)
        check_one_of("ModularEncoding: rounding", self.rounding, ROUNDINGS)
        check_one_of("ModularEncoding: beyond", self.beyond, BEYOND)
        if self.top < 1:
            raise LocalError(
                f"ModularEncoding: {self.bits} bits are too few for a sum of {self.clients} messages, which could wrap "
                f"round; take {self.clients.bit_length() + 1} bits or more"
            )

    @property
    def top(self) -> int:
        """Largest level of one message."""
        return (2 ** (self.bits - 1) - 1) // self.clients

    @property
    def step(self) -> float:
        """What one level is worth."""
        return self.clip / self.top

    def bound(self, count: int) -> float:
        """Largest error of an entry of a sum of `count` vectors whose entries are within `clip`.

        Half a step per message, a whole one with a dither (whose standard deviation is at most sqrt(count) * step / 2),
        and the rounding of float64.
        """
        return count * (self.step * (0.5 if self.rounding == "nearest" else 1.0) + self.clip * 2.0**-51)

    def encode(self, x: Tensor, key: Key | None = None) -> np.ndarray:
        """The words of a float vector of any shape, flattened.  # (numel,) uint64

        `key` is the sender's own, another one for every message; "nearest" needs none. LocalError for values that are
        not finite, or beyond `clip` when those are refused.
        """
        if self.rounding == "dithered" and not isinstance(key, Key):
            raise LocalError(f"ModularEncoding.encode: dithered rounding needs the sender's own Key; got {key!r}")
        values = x.detach().reshape(-1).cpu().to(torch.promote_types(x.dtype, torch.float32)).numpy()
        self._check_values(values)
        u = key.fold("field").uniform(len(values)) if key and self.rounding == "dithered" else None
        words = np.empty(len(values), np.uint64)
        for start in range(0, len(values), CHUNK):
            piece = slice(start, start + CHUNK)
            levels = self._levels(values[piece], None if u is None else u[piece])
            words[piece] = levels.astype(np.int64).view(np.uint64)
        return self._wrap(words)

    def _levels(self, values: np.ndarray, u: np.ndarray | None) -> np.ndarray:
        scaled = values.astype(np.float64) / self.step
        levels = np.rint(scaled) if u is None else np.floor(scaled + u)
        return np.clip(levels, -self.top, self.top)

    def _check_values(self, values: np.ndarray) -> None:
        largest = float(np.abs(values).max(initial=0.0))  # nan when one of them is
        if not math.isfinite(largest):
            wrong = np.count_nonzero(~np.isfinite(values))
            raise LocalError(
                f"ModularEncoding.encode: {wrong} of {len(values)} values are not finite; a sum would be lost"
            )
        if self.beyond == "refuse" and largest > self.clip:
            raise LocalError(
                f"ModularEncoding.encode: expected values within +-{self.clip:.4g}, so that a sum of {self.clients} "
                f"messages cannot overflow {self.bits} bits; got one of size {largest:.4g}"
            )

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a + b mod 2^bits.  # (n,) uint64 each"""
        if self._checked(a).shape != self._checked(b).shape:
            raise LocalError(f"ModularEncoding.add: expected messages of one length; got {len(a)} and {len(b)} words")
        return self._wrap(a + b)

    def subtract(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a - b mod 2^bits; b may be any sum of words.  # (n,) uint64 each"""
        return self._wrap(self._checked(a) - b)

    def decode(self, total: np.ndarray, count: int) -> Tensor:
        """The sum of the vectors of `count` messages, from the sum of their words.  # (n,) float64

        LocalError when more than `clients` were added; WireError when their sum cannot be so large, as when a mask
        did not cancel (it is found with probability 1 - (count/clients)^n).
        """
        if not 1 <= count <= self.clients:
            raise LocalError(
                f"ModularEncoding.decode: a sum of {count} messages may have wrapped round; this encoding holds "
                f"1..{self.clients}"
            )
        signed = self._checked(total).astype(np.int64)
        signed -= (signed >> (self.bits - 1)) << self.bits
        largest = int(np.abs(signed).max(initial=0))
        if largest > count * self.top:
            raise WireError(
                f"ModularEncoding: {count} messages sum to at most {count * self.top} levels; got {largest}: a message "
                "is missing or twice in the sum, so that masks did not cancel, or the sender has another encoding"
            )
        return torch.from_numpy(signed * self.step)

    def sum(self, messages: Iterable[np.ndarray]) -> Tensor:
        """The sum of the vectors behind the words of some messages, masked or not.  # (n,) float64

        Messages may come from an iterator; one sum is in memory. LocalError when there is none, too many, or lengths
        differ.
        """
        total, count = None, 0
        for words in messages:
            total, count = words if total is None else self.add(total, words), count + 1
            if count > self.clients:
                raise LocalError(f"ModularEncoding.sum: more than {self.clients} messages may wrap round; set clients")
        if total is None:
            raise LocalError("ModularEncoding.sum: expected one message or more; got none")
        return self.decode(total, count)

    def write(self, words: np.ndarray, out: BitWriter) -> None:
        """Append `bits` bits per word."""
        Fixed().write(self._checked(words).view(np.int64), self.spec(len(words)), out)

    def read(self, n: int, src: BitReader) -> np.ndarray:
        """Read back n words; WireError when they end too early.  # (n,) uint64"""
        return Fixed().read(self.spec(n), src).view(np.uint64)

    def spec(self, n: int) -> Spec:
        """n words, as coders see them."""
        return Spec((n,), "int64", 0, 2**self.bits - 1)

    def mask(self, n: int, me: int, keys: Mapping[int, Key]) -> np.ndarray:
        """What client `me` adds to its words: + the stream it shares with each later client, - with each earlier one.

        `keys`: the other clients' numbers, and the secret that `me` shares with each, for this round only. Over all
        clients masks sum to 0; without one of them the rest looks uniform (Bonawitz et al. 2017, section 4). The stream
        is SHAKE-256 of the key's digest, so it is as secret as the key: seed it with 128 random bits or more.
        # (n,) uint64
        """
        if me in keys:
            raise LocalError(f"ModularEncoding.mask: client {me} shares no key with itself")
        total = np.zeros(n, np.uint64)
        for other, key in keys.items():
            stream = self.stream(n, key)
            total = total + stream if me < other else total - stream
        return self._wrap(total)

    def stream(self, n: int, key: Key) -> np.ndarray:
        """Words that look uniform to everybody without the key.  # (n,) uint64"""
        size = 4 if self.bits <= 32 else 8
        data = hashlib.shake_256(key.fold("field mask").digest(32)).digest(n * size)
        return self._wrap(np.frombuffer(data, f"<u{size}").astype(np.uint64))

    def _wrap(self, words: np.ndarray) -> np.ndarray:
        return words & np.uint64(2**self.bits - 1)

    def _checked(self, words: np.ndarray) -> np.ndarray:
        if words.dtype != np.uint64 or words.ndim != 1 or int(words.max(initial=0)) >> self.bits:
            raise LocalError(
                f"ModularEncoding: expected uint64 words of {self.bits} bits; got {words.dtype} {words.shape}"
            )
        return words


def linear_values(codec: Codec, message: Any, spec: Spec, state: Any = ()) -> Partial:
    """A message's numbers, with scale 1, that may be added to other senders' before `codec.complete` expands the sum.

    Args:
        codec: of one vector, whose messages are dense.
        message: one of its messages.
        spec: of the vector.
        state: the codec's shared state.

    Raises:
        LocalError: the codec is a lift, or its messages have supports of their own, as those of top-k.

    Example:
        >>> import fewbits as fb
        >>> codec, spec, keys = fb.chain(fb.Raw()), Spec((2,)), fb.codecs.Keys(Key(0), Key(0))
        >>> message, _ = codec.encode(torch.ones(2), spec, (), (), keys)
        >>> linear_values(codec, message, spec).values
        tensor([1., 1.])
    """
    if codec.lift:
        raise LocalError(f"linear_values: {codec!r} is a lift; take the codecs of its groups one by one")
    partial, _ = codec.partial(message, spec, state)
    if partial.support is not None:
        raise LocalError(
            f"linear_values: the messages of {codec!r} have supports of their own, so their sums need every one of "
            "them; take a codec whose contract is linear, such as chain(Subspace(4096)), or chain(Raw())"
        )
    return Partial(partial.values * partial.scale, side=partial.side)
