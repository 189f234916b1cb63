"""Key agreement and sealed messages between two clients: X25519 and ChaCha20-Poly1305 of the library `cryptography`."""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import TYPE_CHECKING

from fewbits.errors import LocalError, WireError
from fewbits.rng import Key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PUBLIC_BYTES = 32
TAG_BYTES = 16
NONCE = bytes(12)  # each sealing key seals one message


class KeyPair:
    """One X25519 key pair, from 32 secret bytes.

    Raises:
        LocalError: the library `cryptography` is missing (`pip install 'fewbits[secure]'`).

    Example:
        >>> mine, yours = KeyPair(bytes([1]) * 32), KeyPair(bytes([2]) * 32)
        >>> mine.agree(yours.public, b"mask") == yours.agree(mine.public, b"mask")
        True
    """

    def __init__(self, secret: bytes) -> None:
        self._private = _x25519().X25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def agree(self, public: bytes, purpose: bytes) -> bytes:
        """The 32 bytes that only the two holders of these pairs can compute, for one purpose.

        A hash of the shared point, both public keys in order, and the purpose. WireError for a public key that gives
        no secret.
        """
        try:
            theirs = _x25519().X25519PublicKey.from_public_bytes(public)
            point = self._private.exchange(theirs)
        except ValueError:  # a point of low order
            raise WireError("a public key gives no secret: it is a point of low order") from None
        low, high = sorted((self.public, public))
        return hashlib.blake2b(low + high + purpose, digest_size=32, key=point, person=b"fewbits.agree").digest()


def seal(key: bytes, data: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate one message; `about` is authenticated, too. A key seals one message."""
    return _cipher(key).encrypt(NONCE, data, about)


def unseal(key: bytes, data: bytes, about: bytes) -> bytes | None:
    """Undo `seal`; None when the message was changed, or is of another key."""
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(NONCE, data, about)
    except InvalidTag:
        return None


def stream_key(secret: bytes) -> Key:
    """The Key whose stream masks words, from 32 secret bytes."""
    return Key(int.from_bytes(secret, "big"))


def check_library() -> None:
    """Raise LocalError when the library is missing."""
    _x25519()


def _x25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519
    except ImportError:
        raise LocalError(
            "masks need the library cryptography for their key agreement: pip install 'fewbits[secure]'"
        ) from None
    return x25519


def _cipher(key: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)
