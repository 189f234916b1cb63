"""RoundSecrets: which version of the model a client may still answer, under noise and under masks."""

from __future__ import annotations

from fewbits.errors import LocalError, WireError
from fewbits.federated.client_core import ClientCore
from fewbits.links.bundle import pack, unpack
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.wire.frame import MAX_SEQUENCE

ANSWERED = b"answered"


class RoundSecrets:
    """One bundle has one reply under noise, and one version has one under masks: each hides one message only.

    A server that was restored gives a version again. Noise is drawn anew then; masks cannot be, without the others.
    """

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self.newest = 0  # version that a reply answered
        self._answered = False  # whether the last bundle has had its reply
        self.end: ClientEnd | None = None  # of the secure sum of the last version, under masks

    def begin(self, version: int) -> None:
        """A bundle brought this version."""
        self._answered = False
        if self._core.method.masking is not None and (self.end is None or self.end.round < version):
            self.end = self._core.secure_end(version)

    def secure(self, version: int) -> ClientEnd:
        """The end of the secure sum that this version begins; LocalError when it is used up, or there are no masks."""
        if self.end is None:
            raise LocalError(f"Client.secure: {self._core.method.name} has no masks")
        if self.end.round != version or (version <= self.newest and not self._answered):
            raise self._used(version)
        return self.end

    def check(self, version: int) -> None:
        """Raise LocalError unless a reply to this version may leave."""
        method = self._core.method
        used = method.masking is not None and version <= self.newest
        if used or (self._answered and method.privacy is not None):
            raise self._used(version)

    def replied(self, version: int) -> None:
        """A reply to this version leaves."""
        self.newest, self._answered = max(self.newest, version), True

    def _used(self, version: int) -> LocalError:
        return LocalError(
            f"Client.reply: {self._core.method.name} sends one message for each version of the model, and version "
            f"{version} had one; receive the bundle of a later version first"
        )

    def dump(self) -> bytes:
        """As bytes for `load`."""
        answered = ANSWERED if self._answered else b""
        end = [] if self.end is None else [str(self.end.round).encode(), self.end.dump()]
        return pack([str(self.newest).encode(), answered, *end])

    def load(self, data: bytes) -> None:
        """Become what was dumped; WireError when the bytes are damaged."""
        newest, answered, *end = (*unpack(data), b"")
        if answered not in (b"", ANSWERED) or len(end) not in (1, 3):
            raise WireError("these bytes are not a dumped Client")
        self.newest, self._answered, self.end = _version(newest), bool(answered), None
        if len(end) == 3:
            self.end = self._core.secure_end(_version(end[0]))
            self.end.load(end[1])


def _version(text: bytes) -> int:
    """A version that a link can name, in digits."""
    if text.isdigit() and len(text) <= len(str(MAX_SEQUENCE)) and int(text) <= MAX_SEQUENCE:
        return int(text)
    raise WireError(f"a dumped Client has a version of 0..{MAX_SEQUENCE}; got {text[:20]!r}")
