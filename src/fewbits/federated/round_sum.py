"""RoundSum: one round's updates, from their arrival to the step; what is too long for the others is left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from fewbits.codecs import Partial
from fewbits.codecs.flat_view import pieces
from fewbits.errors import WireError
from fewbits.federated import terms
from fewbits.federated.arrived import Arrived
from fewbits.federated.exchange import Exchange
from fewbits.federated.norm_watch import Norms, NormWatch
from fewbits.federated.round_clients import RoundClients
from fewbits.learn import shared_values
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.rng import Key

LARGEST = torch.finfo(torch.float32).max
WAITING_BYTES, FEWEST_WAITING = 256 << 20, 20  # of updates that wait for the end of a round


class RoundSum:
    """The mean or the robust mean of the clients so far.

    An update within the past rounds' bound is added at once. One beyond it waits until the round's other norms are
    known, and so does every update of the first round.
    """

    def __init__(self, exchange: Exchange, watch: NormWatch | None = None) -> None:
        self._terms, self._watch = terms.terms(exchange), watch
        self._waiting: list[tuple[Arrived, Norms]] = []
        self._bytes = 0  # of those that wait
        self._counts = Counter[int]()  # messages, by subspace
        self._noise: dict[int, Tensor] = {}  # what sums of so many subspaces lack under dp, by subspace
        self._reach = 0.0  # no entry of the sum is larger
        self.weight = 0.0  # sum_k n_k
        self.left_out: list[tuple[int | None, str]] = []  # (client, why) of those that waited in vain

    def most(self, weight: float) -> float:
        """The largest entry of an update of this weight that keeps the sum within float32's range."""
        return (LARGEST - self._reach) / weight

    def add(self, client: int | None, parts: Sequence[Partial], weight: float, reach: float, subspace: int = 0) -> None:
        """Add one decoded message; no entry of it is larger than `reach`."""
        self.enter(Arrived(client, tuple(parts), weight, reach, subspace))

    def enter(self, update: Arrived) -> None:
        """Add an update, or let it wait."""
        if self._watch is None:
            self._take(update)
            return
        norms = self._watch.norms(update)
        if self._watch.enter(norms):
            self._take(update)
            return
        update = update.copied()
        self._waiting.append((update, norms))
        self._bytes += update.bytes
        if self._bytes > WAITING_BYTES and len(self._waiting) >= FEWEST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Add those of the waiting updates that are within the bound; leave the others out."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        for update, norms in waiting:
            try:
                assert self._watch is not None
                self._watch.check(norms)
                self.check_reach(update)
            except WireError as error:
                self.left_out.append((update.client, str(error)))
            else:
                self._take(update)

    def close(self) -> None:
        """The end of a round: what waits is decided, and the bound of the next rounds knows this one's norms."""
        self.settle()
        if self._watch is not None:
            self._watch.close()

    def check_reach(self, update: Arrived) -> None:
        """WireError when the update could take the sum out of float32's range."""
        if not update.reach <= self.most(update.weight):
            raise WireError(f"values up to {update.reach:.3g} with this weight could leave float32's range")

    def _take(self, update: Arrived) -> None:
        self._terms.add(update)
        self._counts[update.subspace] += 1
        self.weight += update.weight
        self._reach += update.weight * update.reach

    def protect(self, privacy: DifferentialPrivacy | None, clients: RoundClients, key: Key) -> float:
        """Add what noise lacks under central dp; returns what the sum is divided by.

        It is fixed there, because a divisor that varies would tell who was drawn.
        """
        if privacy is None or not privacy.central:
            return self.weight
        self._add_missing_noise(privacy, clients.noise_parts, key)
        return float(privacy.clients)

    def _add_missing_noise(self, privacy: DifferentialPrivacy, asked: int, key: Key) -> None:
        """Bring the noise of every sum to what dp promises, as if all of those asked had arrived.

        `key` is the server's for this round. The sums are folded into it, so two different sums share no noise when a
        server that was restored plays a round again.
        """
        for i, found in enumerate(self._terms.vectors(self.weight)):
            values = shared_values.vector(found)
            digest = hashlib.blake2b(values.numpy().tobytes()).hexdigest()
            noise = privacy.missing(len(values), asked, self._counts[i], key.fold(i, digest))
            if noise is not None:
                self._noise[i] = noise

    @property
    def empty(self) -> bool:
        """Whether there is nothing to move by: no update and no noise."""
        return not self.weight and not self._noise

    def unmask(self, server: ServerEnd) -> str:
        """Take the masks off; why they stay in the sum, which says nothing then, or "" when they are off."""
        try:
            terms.unmask(self._terms, server)
        except WireError as error:
            return str(error)
        return ""

    def carried(self, scale: float) -> Tensor:
        """The sum as messages carry it, not expanded, for optimisers that step on it."""
        return terms.carried(self._terms) * scale

    def values(self, scale: float) -> dict[str, Tensor]:
        """The sum times `scale`, by wire name."""
        (found,) = self._terms.vectors(self.weight)
        found = {name: x * scale for name, x in found.items()}
        if 0 in self._noise:
            noise = pieces(self._noise[0] * scale, found)
            found = {name: x + noise[name] for name, x in found.items()}
        return found

    def coordinates(self, name: str, scale: float) -> Tensor:
        """The sums of all subspaces end to end, times `scale`.  # (k * dim,)"""
        sums = [found[name] for found in self._terms.vectors(self.weight)]
        return torch.cat([(x + self._noise[i] if i in self._noise else x) * scale for i, x in enumerate(sums)])


def names(left_out: Sequence[tuple[int | None, str]]) -> dict[int, str]:
    """Reasons by client; -1: updates that came without a link."""
    return {-1 if client is None else client: why for client, why in left_out}
