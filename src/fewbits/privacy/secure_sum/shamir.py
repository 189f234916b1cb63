"""Shamir's scheme: a secret as shares, of which a threshold gives it back and fewer say nothing.

Shamir, How to Share a Secret, CACM 1979. The secret is the constant term of a random polynomial of degree
threshold - 1, modulo a prime; a share is its value at the client's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fewbits.errors import LocalError
from fewbits.rng import Key

PRIME = 2**256 + 297  # the smallest prime above every secret of 32 bytes
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, places: Sequence[int], key: Key) -> dict[int, int]:
    """Make one share for each place.

    Args:
        secret: 32 bytes.
        threshold: shares that give it back.
        places: different numbers above 0, `threshold` or more.
        key: secret and new for each secret; it draws the polynomial.

    Returns:
        Shares by place, each below `PRIME`.

    Raises:
        LocalError: an argument does not fit.

    Example:
        >>> shares = split(bytes(31) + b"x", 2, [1, 2, 3], Key(1))
        >>> combine({1: shares[1], 3: shares[3]})[-1:]
        b'x'
    """
    if len(secret) != 32 or not 1 <= threshold <= len(set(places)) == len(places) or min(places) < 1:
        raise LocalError(
            f"shamir.split: expected 32 bytes and {threshold} or more different places above 0; got {len(secret)} "
            f"bytes and places {list(places)}"
        )
    # 512 bits modulo a prime of 257: uniform to 2^-255
    terms = [int.from_bytes(key.fold("term", i).digest(64), "big") % PRIME for i in range(1, threshold)]
    polynomial = [int.from_bytes(secret, "big"), *terms]
    return {place: _value(polynomial, place) for place in places}


def combine(shares: Mapping[int, int]) -> bytes | None:
    """Give back the secret of exactly `threshold` shares, by place; None when they give no 32 bytes."""
    return Weights(list(shares)).combine(list(shares.values()))


class Weights:
    """Lagrange's weights at 0 of some places, for many secrets that are shared among the same places."""

    def __init__(self, places: Sequence[int]) -> None:
        self._weights = [_weight(places, place) for place in places]

    def combine(self, shares: Sequence[int]) -> bytes | None:
        """The secret whose shares are these, in the order of the places; None: they give no 32 bytes."""
        secret = sum(w * share for w, share in zip(self._weights, shares, strict=True)) % PRIME
        return secret.to_bytes(32, "big") if secret < 2**256 else None


def _value(polynomial: Sequence[int], place: int) -> int:
    total = 0
    for term in reversed(polynomial):
        total = (total * place + term) % PRIME
    return total


def _weight(places: Sequence[int], place: int) -> int:
    """Product over the others of other / (other - place), modulo the prime."""
    above = below = 1
    for other in places:
        if other != place:
            above, below = above * other % PRIME, below * (other - place) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
