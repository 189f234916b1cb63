"""ClientEnd: one client's side of one round's secure sum."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from fewbits.codecs import ModularEncoding
from fewbits.errors import LocalError, WireError
from fewbits.links.bundle import pack, unpack
from fewbits.privacy.secure_sum.key_agreement import KeyPair, seal, stream_key, unseal
from fewbits.privacy.secure_sum.messages import NUMBER_BYTES, PUBLIC_BYTES, Kind, read, write
from fewbits.privacy.secure_sum.shamir import SHARE_BYTES, split
from fewbits.privacy.secure_sum.threshold import needed
from fewbits.rng import Key

STEPS = ("advertise", "share", "open", "mask", "reveal")  # in this order, each once


class ClientEnd:
    """A client in one round: `advertise`, `share`, `open`, `mask`, `reveal`, each once and in this order.

    ``y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv) mod 2^bits``: s_uv from a key agreement with
    client v, b_u a self mask. `reveal` gives shares of b_v for clients that arrived, and of the key behind s_vw for
    those that did not, and never both for one client.

    Args:
        number: of this client.
        round: both ends' number of the round.
        key: this client's secret. One key and round are one set of secrets: never give a round twice.
        share: of the clients that must arrive, above 1/2.

    Raises:
        LocalError: a step comes twice or too early.
        WireError: the server's message is damaged, or asks for what would reveal this client.
    """

    def __init__(self, number: int, round: int, key: Key, share: float = 2 / 3) -> None:
        self.number, self.round, self._share = number, round, share
        self._key = key.fold("secure sum", round)
        self._done = 0  # steps
        self._roster = self._delivery = b""
        self._keys: dict[int, bytes] = {}  # two public keys of each client
        self._sealed: dict[int, bytes] = {}  # shares for this client, by sender

    def advertise(self) -> bytes:
        """This client's two public keys."""
        self._step("advertise")
        return write(Kind.KEYS, self.round, {self.number: self._publics})

    def share(self, roster: bytes) -> bytes:
        """Sealed shares of this client's two secrets, one for each other client of the roster."""
        keys = self._read_roster(roster)
        self._step("share")
        self._roster, self._keys = bytes(roster), keys
        shares = self._split()
        return write(Kind.SHARES, self.round, {v: self._seal(v, shares[v]) for v in keys if v != self.number})

    def open(self, delivery: bytes) -> None:
        """Take the others' sealed shares: their senders and this client are the members, whose masks will cancel."""
        sealed = self._read_delivery(delivery)
        self._step("open")
        self._delivery, self._sealed = bytes(delivery), sealed

    @property
    def members(self) -> tuple[int, ...]:
        """The clients whose masks cancel, ascending; empty before `open`."""
        return tuple(sorted([*self._sealed, self.number])) if self._delivery else ()

    def mask(self, words: np.ndarray, encoding: ModularEncoding) -> np.ndarray:
        """This client's words under its masks.  # (n,) uint64"""
        self._step("mask")
        pairs = {v: stream_key(self._mask_pair.agree(self._keys[v][PUBLIC_BYTES:], b"mask")) for v in self._sealed}
        total = encoding.add(words, encoding.mask(len(words), self.number, pairs))
        return encoding.add(total, encoding.stream(len(words), stream_key(self._self_secret)))

    def reveal(self, survivors: bytes) -> bytes:
        """One share for each member, of the kind that its fate asks for."""
        arrived = self._read_survivors(survivors)
        self._step("reveal")
        shares = self._opened()
        return write(Kind.REVEAL, self.round, {v: pair[0 if v in arrived else 1] for v, pair in shares.items()})

    def dump(self) -> bytes:
        """What the server has said so far, for another process; the secrets follow from the key."""
        return pack([bytes([self._done]), self._roster, self._delivery])

    def load(self, data: bytes) -> None:
        """Go on from what was dumped; WireError when it is not such a dump."""
        done, roster, delivery = (*unpack(data), b"", b"")[:3]
        if len(done) != 1 or done[0] > len(STEPS):
            raise WireError("these bytes are not a dumped ClientEnd")
        if (bool(roster), bool(delivery)) != (done[0] > STEPS.index("share"), done[0] > STEPS.index("open")):
            raise WireError(f"a ClientEnd after {done[0]} steps has other messages of the server than these")
        self._done = done[0]
        if roster:
            self._roster, self._keys = roster, self._read_roster(roster)
        if delivery:
            self._delivery, self._sealed = delivery, self._read_delivery(delivery)

    def resume(self, step: str, roster: bytes, delivery: bytes) -> None:
        """Stand before a step of which all messages are known, as if each had been taken here."""
        self.load(pack([bytes([STEPS.index(step)]), roster, delivery]))

    def _step(self, name: str) -> None:
        if STEPS.index(name) != self._done:
            expected = STEPS[self._done] if self._done < len(STEPS) else "nothing: the round is over"
            raise LocalError(
                f"secure sum: client {self.number} does each step of round {self.round} once and in order; next is "
                f"{expected}, got {name}"
            )
        self._done += 1

    # the secrets

    @cached_property
    def _seal_pair(self) -> KeyPair:
        return KeyPair(self._key.fold("seal").digest(32))

    @cached_property
    def _mask_secret(self) -> bytes:
        return self._key.fold("mask").digest(32)

    @cached_property
    def _mask_pair(self) -> KeyPair:
        return KeyPair(self._mask_secret)

    @cached_property
    def _self_secret(self) -> bytes:
        return self._key.fold("self").digest(32)

    @property
    def _publics(self) -> bytes:
        return self._seal_pair.public + self._mask_pair.public

    def _split(self) -> dict[int, bytes]:
        """(share of the self mask, share of the mask key) for each client of the roster, this one too."""
        places, threshold = [v + 1 for v in self._keys], needed(self._share, len(self._keys))
        key = self._key.fold("shares", self._roster.hex())
        alone = split(self._self_secret, threshold, places, key.fold("self"))
        pair = split(self._mask_secret, threshold, places, key.fold("mask"))
        return {
            v: alone[v + 1].to_bytes(SHARE_BYTES, "big") + pair[v + 1].to_bytes(SHARE_BYTES, "big") for v in self._keys
        }

    def _seal(self, to: int, shares: bytes) -> bytes:
        return seal(self._sealing_key(to, self.number, to), shares, self._about(self.number, to))

    def _sealing_key(self, other: int, sender: int, receiver: int) -> bytes:
        """New for each direction, round and roster."""
        purpose = b"seal" + self._about(sender, receiver) + self._roster
        return self._seal_pair.agree(self._keys[other][:PUBLIC_BYTES], purpose)

    def _about(self, sender: int, receiver: int) -> bytes:
        return b"".join(x.to_bytes(NUMBER_BYTES, "big") for x in (self.round, sender, receiver))

    def _opened(self) -> dict[int, tuple[bytes, bytes]]:
        """Both shares by member; those that cannot be opened are left out."""
        found = {self.number: self._split()[self.number]}
        for v, sealed in self._sealed.items():
            shares = unseal(self._sealing_key(v, v, self.number), sealed, self._about(v, self.number))
            if shares is not None:
                found[v] = shares
        return {v: (shares[:SHARE_BYTES], shares[SHARE_BYTES:]) for v, shares in found.items()}

    # what the server says

    def _read_roster(self, roster: bytes) -> dict[int, bytes]:
        keys = read(Kind.ROSTER, self.round, roster)
        if keys.get(self.number) != self._publics:
            raise WireError(f"the roster has other keys for client {self.number} than its own, or none")
        publics = [key for pair in keys.values() for key in (pair[:PUBLIC_BYTES], pair[PUBLIC_BYTES:])]
        if len(set(publics)) != len(publics):
            raise WireError("two clients of the roster have the same key")
        self._check_enough(keys, "a roster", keys)
        return keys

    def _read_delivery(self, delivery: bytes) -> dict[int, bytes]:
        sealed = read(Kind.DELIVERY, self.round, delivery)
        if self.number in sealed or not sealed.keys() <= self._keys.keys():
            raise WireError("the delivered shares come from clients that are not the others of the roster")
        self._check_enough([*sealed, self.number], "a delivery", self._keys)
        return sealed

    def _read_survivors(self, survivors: bytes) -> set[int]:
        arrived = set(read(Kind.SURVIVORS, self.round, survivors))
        if self.number not in arrived:
            raise WireError(
                f"client {self.number} has sent its words, and the server lists it as lost; it reveals nothing"
            )
        if not arrived <= set(self.members):
            raise WireError("the survivors are not all members of the round")
        self._check_enough(arrived, "the survivors", self._keys)
        return arrived

    def _check_enough(self, found: Iterable[int], what: str, roster: dict[int, bytes]) -> None:
        count, least = len(set(found)), needed(self._share, len(roster))
        if count < least:
            raise WireError(f"{what} of {count} clients is below the threshold of {least}")
