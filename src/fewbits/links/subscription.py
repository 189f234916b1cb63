"""Subscription: a client's end of a downlink, whatever travels on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Subscription(ABC):
    """Take a publisher's bundles, and hold the value that they lead to.

    A bundle that ends before the version held is refused with DesyncError, and nothing changes: it is late, or was sent
    again, or the server was restored from an older checkpoint. Only the server knows which. When it says that it was
    restored, `load(None)` forgets what is held, and the next bundle must be one for first contact.

    Example:
        >>> import torch, fewbits as fb
        >>> publisher = fb.links.Broadcast(fb.Raw(), fb.Spec((2,)), fb.Key(0))
        >>> publisher.publish(torch.ones(2))
        >>> subscription = fb.links.Subscriber(fb.Raw(), fb.Spec((2,)))
        >>> subscription.receive(publisher.bundle(subscription.version))
        tensor([1., 1.])
    """

    ack: int | None = None  # from the last bundle: how many of our frames the server has accepted, modulo 2^16

    @property
    @abstractmethod
    def value(self) -> Any:
        """What is held; None: nothing yet."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Version of the value held, 0: nothing yet; our next frame acknowledges it."""

    @property
    def epoch(self) -> int:
        """Epoch of the subspaces that the value lies in; 0 where there are none."""
        return 0

    @property
    def personal(self) -> bool:
        """Whether the value held is this subscriber's alone, near the public value."""
        return False

    @abstractmethod
    def receive(self, bundle: bytes) -> Any:
        """Take a bundle, and return the value after it. On errors nothing changes.

        WireError: damaged, or of another codec. DesyncError: it does not lead on from what is held.
        """

    @abstractmethod
    def dump(self) -> bytes:
        """What is held, for a StateStore."""

    def dump_before(self) -> bytes:
        """What the last bundle began with, where the server may begin there again; else nothing."""
        return b""

    def load_before(self, data: bytes) -> None:  # noqa: B027
        """Take what `dump_before` gave, after `load`."""

    @abstractmethod
    def load(self, data: bytes | None) -> None:
        """Become the end that was dumped; None: one that holds nothing. WireError when the bytes are damaged."""
