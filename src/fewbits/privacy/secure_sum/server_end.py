"""ServerEnd: the server's side of one round's secure sum."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from fewbits.codecs import ModularEncoding
from fewbits.errors import LocalError, WireError
from fewbits.privacy.secure_sum.key_agreement import KeyPair, stream_key
from fewbits.privacy.secure_sum.messages import PUBLIC_BYTES, Kind, read, write
from fewbits.privacy.secure_sum.shamir import PRIME, Weights
from fewbits.privacy.secure_sum.threshold import needed
from fewbits.rng import Key

STAGES = ("keys", "shares", "words", "shares of the secrets")


class ServerEnd:
    """A server in one round, in four stages; each closes when the server goes on to the next.

    1. `advertised` takes each client's keys; `roster` is for all of them.
    2. `shared` takes each client's sealed shares; `delivery` is for one member.
    3. `arrive` notes whose masked words are in the sum; `survivors` is for all of those.
    4. `revealed` takes each survivor's shares; `unmask` takes the masks off the sum.

    Args:
        clients: the numbers of those who were asked.
        round: both ends' number of the round.
        share: of the clients that must arrive in each stage, above 1/2.

    Raises:
        WireError: a client's message is damaged or out of place, or fewer clients than the threshold are left: the
            round is void.
    """

    def __init__(self, clients: Iterable[int], round: int, share: float = 2 / 3) -> None:
        self.clients, self.round, self._share = tuple(clients), round, share
        self._stage = 0
        self._probe = KeyPair(bytes([1]) * 32)  # no secret: it tries out public keys
        self._void = ""  # why fewer than the threshold are left
        self._keys: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}  # by sender and receiver
        self.arrived: list[int] = []  # whose masked words are in the sum
        self._shares: dict[int, dict[int, bytes]] = {}  # by the client that reveals, and the one that they concern

    def advertised(self, client: int, message: bytes) -> None:
        """Take a client's public keys."""
        self._expect(client, 0, self.clients, self._keys)
        keys = read(Kind.KEYS, self.round, message)
        if set(keys) != {client}:
            raise WireError(f"client {client} advertises keys of clients {list(keys)}")
        publics = _publics(keys[client])
        if len(set(publics)) < 2 or set(publics) & {x for pair in self._keys.values() for x in _publics(pair)}:
            raise WireError(f"client {client} advertises a key that is advertised already")
        for public in publics:
            self._probe.agree(public, b"")  # WireError here, not at every other client
        self._keys |= keys

    def roster(self) -> bytes:
        """The keys of all clients that advertised."""
        self._close(0, self._keys)
        return write(Kind.ROSTER, self.round, self._keys)

    def shared(self, client: int, message: bytes) -> None:
        """Take a client's sealed shares."""
        self._expect(client, 1, self._keys, self._sealed)
        sealed = read(Kind.SHARES, self.round, message)
        if set(sealed) != set(self._keys) - {client}:
            raise WireError(f"client {client} must share with the others of the roster; it shares with {list(sealed)}")
        self._sealed[client] = sealed

    def delivery(self, client: int) -> bytes:
        """The sealed shares for one member. The first call closes the stage: the members are those who shared."""
        self._close(1, self._sealed)
        if client not in self._sealed:
            raise LocalError(f"secure sum: client {client} shared nothing in round {self.round}, so it gets nothing")
        return write(
            Kind.DELIVERY, self.round, {u: shares[client] for u, shares in self._sealed.items() if u != client}
        )

    @property
    def members(self) -> tuple[int, ...]:
        """The clients whose masks cancel, ascending."""
        return tuple(sorted(self._sealed))

    def check_words(self, client: int) -> None:
        """Raise WireError unless this client's masked words are due."""
        self._expect(client, 2, self._sealed, self.arrived)

    def arrive(self, client: int) -> None:
        """This client's masked words are in the sum."""
        self.check_words(client)
        self.arrived.append(client)

    def survivors(self) -> bytes:
        """Whose words are in the sum; the answer of each of them goes to `revealed`."""
        self._close(2, self.arrived)
        return write(Kind.SURVIVORS, self.round, dict.fromkeys(self.arrived, b""))

    def revealed(self, client: int, message: bytes) -> None:
        """Take the shares that a survivor reveals."""
        self._expect(client, 3, self.arrived, self._shares)
        shares = read(Kind.REVEAL, self.round, message)
        if not shares.keys() <= self._sealed.keys() or any(int.from_bytes(x, "big") >= PRIME for x in shares.values()):
            raise WireError(f"client {client} reveals what is no share of a member")
        self._shares[client] = shares

    def unmask(self, total: np.ndarray, encoding: ModularEncoding) -> np.ndarray:
        """The sum of the survivors' words without masks.  # (n,) uint64"""
        self._close(3, self._shares)
        n, arrived = len(total), set(self.arrived)
        off = np.zeros(n, np.uint64)
        for u, secret in self._secrets().items():
            if u in arrived:
                off += encoding.stream(n, stream_key(secret))
            else:
                off -= encoding.mask(n, u, self._pairs(u, secret))  # survivors added the opposite of what u would have
        return encoding.subtract(total, off)

    def _pairs(self, lost: int, secret: bytes) -> dict[int, Key]:
        """The keys of the masks that a lost client shares with the survivors."""
        pair = KeyPair(secret)
        if pair.public != _publics(self._keys[lost])[1]:
            raise WireError(f"the revealed shares do not give the key of client {lost}: a client lied")
        return {v: stream_key(pair.agree(_publics(self._keys[v])[1], b"mask")) for v in self.arrived}

    def _secrets(self) -> dict[int, bytes]:
        """The self mask of each survivor, and the mask key of each lost member."""
        found: dict[int, bytes] = {}
        weights: dict[tuple[int, ...], Weights] = {}
        for u in self.members:
            who = tuple(v for v in self._shares if u in self._shares[v])[: self._least]
            if len(who) < self._least:
                raise WireError(f"{len(who)} shares of client {u} were revealed, and {self._least} are needed")
            if who not in weights:
                weights[who] = Weights([v + 1 for v in who])
            secret = weights[who].combine([int.from_bytes(self._shares[v][u], "big") for v in who])
            if secret is None:
                raise WireError(f"the revealed shares of client {u} give no secret: a client lied")
            found[u] = secret
        return found

    @property
    def _least(self) -> int:
        return needed(self._share, len(self._keys))

    def _expect(self, client: int, stage: int, allowed: Collection[int], done: Collection[int]) -> None:
        if client not in allowed or client in done or self._stage != stage:
            raise WireError(
                f"client {client} is not expected to send its {STAGES[stage]} in round {self.round}: it was not asked, "
                "has sent them, or is too early or too late"
            )

    def _close(self, stage: int, found: Collection[int]) -> None:
        if self._stage < stage:
            raise WireError(self._void or f"round {self.round} has not come to the clients' {STAGES[stage]}")
        least = needed(self._share, len(self._keys) if stage else len(self.clients))
        if len(found) < least:
            self._void = (
                f"{len(found)} of {len(self.clients)} clients have sent their {STAGES[stage]}, and {least} are needed"
            )
            raise WireError(self._void)
        self._stage = max(self._stage, stage + 1)


def _publics(keys: bytes) -> tuple[bytes, bytes]:
    """(the key for seals, the key for masks) of a client."""
    return keys[:PUBLIC_BYTES], keys[PUBLIC_BYTES:]
