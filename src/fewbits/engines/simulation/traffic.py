"""Traffic: enters the frames and bundles of a run into its ledger, and shows them to whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fewbits.engines.simulation.budget import Budget
from fewbits.engines.simulation.worker import Reply
from fewbits.federated.server import Server
from fewbits.links import Entry, Ledger, Receiver
from fewbits.links.bundle import unpack
from fewbits.links.ledger import stages
from fewbits.wire.frame import HEADER_BYTES

Tap = Callable[[int, int, str, bytes], None]  # round, client, direction, message


class Collected(NamedTuple):
    """What came back from the clients of one round."""

    replies: list[Reply]  # of all who were asked
    failed: dict[int, str]  # by client, why its frame could not be used
    unsent: dict[int, str]  # by client, how long a frame was that the budget had no room for
    unasked: list[int]  # clients whose bundle it had no room for


class Traffic:
    """What travels between a server and its clients, by its real length."""

    def __init__(self, server: Server, ledger: Ledger, budget: Budget) -> None:
        self._server, self._ledger, self._budget = server, ledger, budget
        self._down: dict[int | None, tuple[int, int]] = {}  # (bytes, payload) by version
        self._tap: Tap | None = None

    def begin(self, tap: Tap | None) -> None:
        """A round begins: the model is a newer one. `tap` sees all that travels in it."""
        self._tap = tap
        self._down.clear()

    def collect(
        self, number: int, arriving: Iterator[tuple[Reply, bytes | memoryview]], personal: Sequence[bytes]
    ) -> Collected:
        """Take the round's replies, as far as the budget has room for their messages."""
        found = Collected([], {}, {}, [])
        for i, (reply, frame) in enumerate(arriving):
            client, bundle = reply.client, personal[i] if personal else None
            if self._budget.limit is not None and self._budget.refuses(self.down_bytes(client, bundle)):
                found.unasked.append(client)
                continue
            self.down(number, client, bundle)
            if not reply.trouble and self._budget.refuses(len(frame)):
                found.unsent[client] = f"{len(frame):,} bytes, and {self._budget.left:,} are left of the budget"
            elif not reply.trouble:
                receiver = self._server.accept(client, frame, reply.weight)
                if receiver is None:
                    found.failed[client] = self._server.reasons[client]
                self.up(number, client, frame, receiver)
            found.replies.append(reply)
        return found

    def up(self, number: int, client: int, frame: bytes | memoryview, receiver: Receiver | None) -> None:
        """Enter a client's frame; one that was left out has travelled, too."""
        payload = max(0, len(frame) - HEADER_BYTES)
        found = stages(receiver.sections) if receiver and self._ledger.written else {}
        self._ledger.add(Entry(number, client, "up", len(frame), payload, found))
        if self._tap:
            self._tap(number, client, "up", bytes(frame))

    def down(self, number: int, client: int, personal: bytes | None) -> None:
        """Enter the bundle that brings this client up to date: its own, or its version's."""
        self._ledger.add(Entry(number, client, "down", *self._measured(client, personal)))
        if self._tap:
            self._tap(number, client, "down", self._bundle(client) if personal is None else personal)

    def down_bytes(self, client: int, personal: bytes | None = None) -> int:
        """Length of the bundle that brings this client up to date."""
        if personal is None and self._server.downlinks.personal:
            personal = self._server.bundle(client)
        return self._measured(client, personal)[0]

    def _measured(self, client: int, personal: bytes | None) -> tuple[int, int]:
        """(bytes, payload) of a client's bundle."""
        if personal is not None:
            return _lengths(personal)
        version = self._server.versions.get(client)
        if version not in self._down:
            self._down[version] = _lengths(self._bundle(client))
        return self._down[version]

    def _bundle(self, client: int) -> bytes:
        return self._server.broadcast.bundle(self._server.versions.get(client))


def _lengths(bundle: bytes) -> tuple[int, int]:
    frames = unpack(bundle) if bundle[0] else []  # a client that is up to date gets an acknowledgement alone
    return len(bundle), sum(len(frame) - HEADER_BYTES for frame in frames)
