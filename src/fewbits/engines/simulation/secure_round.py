"""SecureRound: carries the messages of a round's secure sum between the server and the clients, and counts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.worker import Reply
from fewbits.errors import WireError
from fewbits.links import Entry, Ledger
from fewbits.links.bundle import pack
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.privacy.secure_sum.messages import OVERHEAD

Tap = Callable[[int, int, str, bytes], None]


class SecureRound:
    """One round: `begin` before clients train, `end` once their words are in the sum."""

    def __init__(self, pool: Pool, server: ServerEnd, number: int, ledger: Ledger, tap: Tap | None) -> None:
        self._pool, self._server, self._number, self._ledger, self._tap = pool, server, number, ledger, tap
        self._roster = b""
        self._deliveries: dict[int, bytes] = {}
        self.lost: dict[int, str] = {}  # clients whose message could not be used, and why

    def begin(self) -> None:
        """Exchange keys and shares; nothing more when too few clients answer, as the round is void then."""
        pool, server, number, clients = self._pool, self._server, self._number, self._server.clients
        try:
            for client, message in zip(clients, pool.secure("advertise", number, clients), strict=True):
                self._up(client, message, server.advertised)
            self._roster = server.roster()
            here = [client for client in clients if client not in self.lost]
            for client in here:
                self._down(client, self._roster)
            for client, message in zip(here, pool.secure("share", number, here, self._roster), strict=True):
                self._up(client, message, server.shared)
            self._deliveries = {client: server.delivery(client) for client in server.members}
        except WireError:
            return
        for client, message in self._deliveries.items():
            self._down(client, message)
        pool.set_deliveries(list(self._deliveries), self._roster, list(self._deliveries.values()))

    def end(self) -> None:
        """Ask the survivors for their shares; nothing when too few arrived."""
        try:
            survivors = self._server.survivors()
        except WireError:
            return
        clients: Sequence[int] = self._server.arrived
        for client in clients:
            self._down(client, survivors)
        common, each = pack([self._roster, survivors]), [self._deliveries[client] for client in clients]
        for client, message in zip(
            clients, self._pool.secure("reveal", self._number, clients, common, each), strict=True
        ):
            self._up(client, message, self._server.revealed)

    def absent(self, members: Sequence[int]) -> list[Reply]:
        """A reply without a frame for each client that was asked and did not become a member."""
        few = "too few clients for masks were there"
        return [Reply(c, trouble=self.lost.get(c, few)) for c in self._server.clients if c not in members]

    def _up(self, client: int, message: bytes, take: Callable[[int, bytes], None]) -> None:
        self._count(client, "up", message)
        try:
            take(client, message)
        except WireError as error:
            self.lost[client] = str(error)

    def _down(self, client: int, message: bytes) -> None:
        self._count(client, "down", message)

    def _count(self, client: int, direction: str, message: bytes) -> None:
        payload = len(message) - OVERHEAD
        self._ledger.add(
            Entry(
                self._number, client, direction, len(message), payload, {"secure sum": 8 * payload} if payload else {}
            )
        )
        if self._tap:
            self._tap(self._number, client, f"secure {direction}", message)
