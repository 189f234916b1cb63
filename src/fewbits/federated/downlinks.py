"""Downlinks: what each client is known to hold of the public model, and the bundle that brings it up to date."""

from __future__ import annotations

from fewbits.errors import DesyncError
from fewbits.links import Publisher, StateStore
from fewbits.links.bundle import wrap
from fewbits.links.personal_updates import HeldState

PART = "server.held"  # what a client holds that has left the public model


class Downlinks:
    """Versions by client; with personal updates, also the frames that made what the client holds."""

    def __init__(self, publisher: Publisher, store: StateStore | None) -> None:
        self.publisher, self.store = publisher, store
        self.versions: dict[int, int] = {}
        self._held: dict[int, HeldState] = {}  # where there is no store
        self._offered: dict[int, HeldState] = {}  # what clients will hold, once the last bundle has arrived

    @property
    def personal(self) -> bool:
        """Whether clients may hold models of their own, near the public one."""
        return self.publisher.personal is not None

    def bundle(self, client: int, ack: int) -> bytes:
        """The shortest message that brings the client to the newest version, or near it, by its real length."""
        if not self.personal:
            return self.publisher.bundle(self.versions.get(client), ack)
        found = self.publisher.catch_up(self.held(client))
        self._offered[client] = found.after
        return wrap(found.frames, ack)

    def held(self, client: int) -> HeldState:
        """What this client is known to hold: a public version, and frames that were made for it alone since."""
        version = self.versions.get(client, 0)
        data = None if self.store is None else self.store.get(client, PART)
        held = HeldState.read(data) if data else self._held.get(client, HeldState())
        return held if version and held.version == version else HeldState(version)

    def version(self, ack: int) -> int:
        """The version that 16 bits stand for: the latest that fits; DesyncError when only one from the future does."""
        newest = self.publisher.version
        found = newest - (newest - ack) % 2**16
        if found < 0:
            raise DesyncError(
                f"the client holds version {ack} of the model, but version {newest} is the newest that there is"
            )
        return found

    def acknowledge(self, client: int, version: int, round: int) -> None:
        """The client holds this version: what the last bundle offered, or what it held before it.

        An acknowledgement of neither belongs to a bundle that was replaced by a later one. It changes nothing: whoever
        took that bundle still has what it began from.
        """
        if not self.personal:
            self.versions[client] = version
            return
        offered = self._offered.get(client)
        if offered is None or offered.version != version:
            return
        held = self.publisher.compact(self._offered.pop(client))
        self.versions[client] = version
        if self.store is None:
            self._held[client] = held
        else:
            self.store.put(client, PART, round, bytes(held if held.frames else HeldState()))
