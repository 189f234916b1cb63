"""SecureWorker: the clients' side of a round's secure sum, for the clients that a worker plays."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.federated.client_core import ClientCore
from fewbits.links.bundle import unpack
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.rng import Key


class SecureWorker:
    """Makes any client's end anew for each step: its secrets follow from its key, and messages come with the order."""

    def __init__(self, core: ClientCore, key: Key) -> None:
        self._core, self._key = core, key
        self._roster = b""  # of the round at hand
        self._deliveries: Mapping[int, bytes] = {}  # the others' shares, by client

    def set_deliveries(self, roster: bytes, deliveries: Mapping[int, bytes]) -> None:
        """What clients must know of the others to mask their words."""
        self._roster, self._deliveries = roster, deliveries

    def message(self, step: str, round: int, client: int, common: bytes, personal: bytes) -> bytes:
        """One client's message in a step; `common` comes from the server to all, `personal` to this client."""
        match step:
            case "advertise":
                return self._end(round, client, step).advertise()
            case "share":
                return self._end(round, client, step).share(common)
        roster, survivors = unpack(common)
        return self._end(round, client, step, roster, personal).reveal(survivors)

    def masks(self, round: int, client: int) -> ClientEnd | None:
        """The end that masks this client's words; None: the run has no masks."""
        if not self._deliveries:
            return None
        return self._end(round, client, "mask", self._roster, self._deliveries[client])

    def _end(self, round: int, client: int, step: str, roster: bytes = b"", delivery: bytes = b"") -> ClientEnd:
        """This client's end, as it stands before a step."""
        core = self._core
        core.number, core.key = client, self._key.fold("client", client)
        end = core.secure_end(round)
        end.resume(step, roster, delivery)
        return end
