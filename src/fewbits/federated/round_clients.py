"""RoundClients: who was asked in a round; dp with central noise and masks must know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np

from fewbits.checks import check_whole
from fewbits.errors import LocalError, WireError
from fewbits.learn.method import Method
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.rng import Key


def sampled(key: Key, round: int, clients: int, per_round: int, poisson: bool = False) -> list[int]:
    """The clients of one round, counted from 0, ascending; `key` is the server's.

    `poisson`: each by a coin of its own, with chance per_round / clients; else exactly `per_round` of them.
    """
    check_whole("Server.sample: clients", clients, 0, numpy=True)
    check_whole("Server.sample: per_round", per_round, 0, numpy=True)
    key = key.fold("round", round, "sample")
    if not poisson or per_round >= clients:
        return [int(c) for c in key.subset(min(per_round, clients), clients)]
    return np.flatnonzero(key.bits(clients) < np.uint64((per_round << 64) // clients)).tolist()


class RoundClients:
    """The clients of the round at hand, once they are said, and under masks the server's end of their secure sum."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._needed = method.poisson or method.masking is not None
        self._asked: list[int] | None = None
        self._secure: ServerEnd | None = None

    def ask(self, clients: Sequence[int], version: int) -> None:
        """These clients play the round that begins with this version of the model."""
        if not isinstance(clients, Iterable) or not all(isinstance(client, Integral) for client in clients):
            raise LocalError(f"Server.expect takes the round's clients by their numbers, from 0; got {clients!r}")
        self._asked, masking = list(clients), self._method.masking
        self._secure = masking and masking.server(self._asked, version)

    @property
    def asked(self) -> list[int]:
        """Their numbers; LocalError when nobody said them."""
        if self._asked is None:
            raise LocalError(
                f"Server: {self._method.name} must know the round's clients; call `sample`, or `expect` with their "
                "numbers, in each round"
            )
        return self._asked

    @property
    def secure(self) -> ServerEnd:
        """The server's end of the round's secure sum; LocalError without masks, or when nobody was asked."""
        if self._method.masking is None:
            raise LocalError(f"Server.secure: {self._method.name} has no masks")
        _ = self.asked
        assert self._secure is not None
        return self._secure

    @property
    def noise_parts(self) -> int:
        """How many clients were to add a part of central noise."""
        return len(self.asked if self._secure is None else self._secure.members)

    def check(self, client: int, version: int) -> None:
        """Raise WireError unless a message of this client, which answers this version, belongs in the sum."""
        if self._needed and client not in self.asked:
            raise WireError(f"client {client} is not one of the round's {len(self.asked)} clients")
        if self._secure is not None:
            self._secure.check_words(client)
            if version != self._secure.round:
                raise WireError(f"the masks are those of version {version}; this is round {self._secure.round}")

    def arrive(self, client: int) -> None:
        """The client's message is in the sum."""
        if self._secure is not None:
            self._secure.arrive(client)
