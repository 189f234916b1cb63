"""Publisher: the server's end of a downlink, whatever travels on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewbits.codecs import Lift
from fewbits.links.bundle import wrap
from fewbits.links.catch_up import CatchUp
from fewbits.links.personal_updates import HeldState, PersonalUpdates
from fewbits.spec import Spec, TreeSpec


class Publisher(ABC):
    """Publish version after version of a value, and bring any subscriber from its version to the newest.

    Versions count from 1. Every subscriber that is up to date holds `value`, bit for bit; where `personal` is not None,
    `catch_up` may leave a subscriber at a value of its own instead, which the returned HeldState describes.

    A server keeps each client's version, or its HeldState, and learns of it from the client's acknowledgements alone.

    Example:
        >>> import torch, fewbits as fb
        >>> publisher = fb.links.Broadcast(fb.Raw(), Spec((2,)), fb.Key(0))
        >>> publisher.publish(torch.ones(2))
        >>> publisher.version, len(publisher.bundle(None)) > len(publisher.bundle(1))
        (1, True)
    """

    keep: int  # versions (or epochs) back from which the history leads on; subscribers further behind start again
    value: Any = None  # what every up-to-date subscriber holds, bit for bit; None: nothing has been published
    seed_frame: bytes | None = None  # stands for version 1 at first contact
    horizon: int | None = None  # the oldest version that `load` may go back to; the history is kept that far
    _last_bundle: tuple[tuple[list[bytes], int], bytes] = (([], -1), b"")  # ((frames, ack), the bundle of them)

    @property
    @abstractmethod
    def version(self) -> int:
        """Version of the value published last; 0: nothing has been published."""

    @property
    @abstractmethod
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        """Every kind of frame in its bundles: (word before the codec's identity, codec, Spec)."""

    @property
    @abstractmethod
    def current(self) -> Any:
        """The values that the next `publish` replaces, under the names that it takes."""

    @property
    @abstractmethod
    def snapshot(self) -> bytes:
        """A frame that needs nothing before it."""

    @property
    def snapshot_bytes(self) -> int:
        """len() of that frame."""
        return len(self.snapshot)

    @property
    @abstractmethod
    def entry(self) -> bytes:
        """The frame published last; LocalError while there is none."""

    @property
    def differential(self) -> bool:
        """Whether entries are differences, whose lengths depend on the values."""
        return False

    @property
    def personal(self) -> PersonalUpdates | None:
        """How differences for single subscribers are made; None: all subscribers hold the public value."""
        return None

    @abstractmethod
    def publish(self, values: Any) -> None:
        """Make these values the next version; LocalError, with nothing changed, when they are not finite."""

    @abstractmethod
    def frames(self, version: int | None) -> list[bytes]:
        """The shortest frames that lead from public `version` (None or 0: new) to `value`; none when up to date."""

    def bundle(self, version: int | None, ack: int = 0) -> bytes:
        """Those frames as one message; the last one carries the acknowledgement of the subscriber's own frames.

        Without frames the acknowledgement follows their count.
        """
        asked = (self._bundled(version), ack)
        if asked != self._last_bundle[0]:  # many versions may get the same frames, megabytes of them
            self._last_bundle = (asked, wrap(*asked))
        return self._last_bundle[1]

    def catch_up(self, before: HeldState) -> CatchUp:
        """The shortest frames for a subscriber that holds this; they may be lossy where there are personal updates."""
        return CatchUp(tuple(self._bundled(before.version)), HeldState(self.version))

    def receiver_state(self, before: HeldState) -> Any:
        """What the subscriber holds, rebuilt bit for bit; None when it cannot be rebuilt, or need not be."""
        return None

    def compact(self, before: HeldState) -> HeldState:
        """The same held state in fewer bytes, if there is a shorter form."""
        return before

    def _bundled(self, version: int | None) -> list[bytes]:
        """The frames of a bundle."""
        return self.frames(version)

    @abstractmethod
    def dump(self) -> list[bytes]:
        """This end as frames, for a checkpoint."""

    @abstractmethod
    def load(self, dumped: Sequence[bytes]) -> list[str]:
        """Become the publisher that was dumped; returns sentences about what of its folder is lost."""

    def attach(self, folder: Path) -> list[str]:
        """Keep the history in a folder from now on; returns sentences about what of the folder cannot be used."""
        return []

    def sync(self) -> None:
        """Wait until the history is on disk."""
        return
