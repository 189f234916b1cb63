"""Uplinks: the server's ends of the clients' uplinks, in memory or in a StateStore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fewbits.checks import check_whole
from fewbits.errors import DesyncError
from fewbits.federated.exchange import Exchange
from fewbits.links import Receiver, StateStore, ends
from fewbits.links.slots import Piece
from fewbits.wire import Frame

PART = "server.up"
Found = TypeVar("Found")


class Uplinks:
    """One Receiver per client. With a store, one Receiver serves all clients, one after the other."""

    def __init__(self, exchange: Exchange, store: StateStore | None) -> None:
        self.store = store
        self._exchange = exchange
        self._in_memory: dict[int, Receiver] = {}
        self._loaded = self._fresh = exchange.receiver()  # the latter: of a client of which nothing came yet
        self._before: Piece | None = None  # in the store, when the receiver was loaded

    def expect(self, clients: Sequence[int]) -> None:
        """Read the ends of these clients from the store at once."""
        if self.store is not None:
            self.store.fetch(clients, PART)

    def receiver(self, client: int) -> Receiver:
        """The receiving end of a client's link, valid until the next call."""
        check_whole("Server: a client's number", client, numpy=True)
        if self.store is None:
            if client not in self._in_memory:
                self._in_memory[client] = self._exchange.receiver()
            return self._in_memory[client]
        self._loaded, self._before = ends.load(self.store, client, PART, self._fresh)
        return self._loaded

    def save(self, client: int, receiver: Receiver, round: int) -> None:
        """Store the end after an accepted frame."""
        if self.store is not None:
            ends.save(self.store, client, PART, round, receiver.pieces_of_dump(), self._before)

    def received(
        self, client: int, receiver: Receiver, frame: bytes | memoryview, round: int, receive: Callable[[], Found]
    ) -> Found:
        """What `receive` gives; when the frame's number fits and its history does not, ask for a key frame.

        The next acknowledgement asks for it.
        """
        try:
            return receive()
        except DesyncError:
            if Frame.parse(frame).header.sequence == receiver.expects:
                receiver.skip()
                self.save(client, receiver, round)
            raise
