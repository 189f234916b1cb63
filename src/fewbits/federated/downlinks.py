"""Downlinks: the version of the public model that each client holds, and the bundle that brings it up to date."""

from __future__ import annotations

from fewbits.errors import DesyncError, WireError
from fewbits.links import Publisher, StateStore, ends
from fewbits.links.bundle import wrap
from fewbits.links.personal_updates import HeldState

PART = "server.held"  # the HeldState of a client with a personal value


class Downlinks:
    """Versions by client; with personal updates, also the frames that made each client's value."""

    def __init__(self, publisher: Publisher, store: StateStore | None) -> None:
        self.publisher, self.store = publisher, store
        self.versions: dict[int, int] = {}
        self._states: dict[int, HeldState] = {}  # without a store
        self._offered: dict[int, HeldState] = {}  # by client: what it holds once its last bundle has arrived

    @property
    def personal(self) -> bool:
        """Whether clients may hold personal values, near the public one."""
        return self.publisher.personal is not None

    def bundle(self, client: int, ack: int) -> bytes:
        """The shortest message that brings the client to the newest version, or near it, by its real length."""
        if not self.personal:
            return self.publisher.bundle(self.versions.get(client), ack)
        found = self.publisher.catch_up(self.known_state(client))
        self._offered[client] = found.after
        return wrap(found.frames, ack)

    def known_state(self, client: int) -> HeldState:
        """What this client is known to hold: a public version, and later frames for this client alone."""
        version = self.versions.get(client, 0)
        data = None if self.store is None else self.store.get(client, PART)
        try:
            found = HeldState.read(data) if data else self._states.get(client, HeldState())
        except WireError as error:
            assert self.store is not None
            raise ends.damaged(self.store, client, PART, error) from error
        return found if version and found.version == version else HeldState(version)

    def version(self, ack: int) -> int:
        """The version that 16 bits mean: the latest that fits. DesyncError when it is newer than the newest."""
        newest = self.publisher.version
        found = newest - (newest - ack) % 2**16
        if found < 0:
            raise DesyncError(
                f"the client holds version {ack} of the model, but version {newest} is the newest that there is"
            )
        return found

    def acknowledge(self, client: int, version: int, round: int) -> None:
        """The client holds this version: that of its last bundle, or the one before.

        An acknowledgement of neither belongs to a bundle that a later one replaced. It changes nothing, because the
        client still has the value that the replaced bundle began from.
        """
        if not self.personal:
            self.versions[client] = version
            return
        offered = self._offered.get(client)
        if offered is None or offered.version != version:
            return
        found = self.publisher.compact(self._offered.pop(client))
        self.versions[client] = version
        if self.store is None:
            self._states[client] = found
        else:
            self.store.put(client, PART, round, bytes(found if found.frames else HeldState()))
