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
from fewbits.links.finite import too_large
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.rng import Key

LARGEST = torch.finfo(torch.float32).max
LARGEST_ENTRY = 1e15  # of an update: float32 holds the sum of squares of 10^8 such, as optimizers take them
WAITING_BYTES, FEWEST_WAITING = 256 << 20, 20  # of updates that wait for the end of a round


class RoundSum:
    """The mean or the robust mean of the clients so far.

    An update within the past rounds' bound is added at once. One beyond it waits until the round's other norms are
    known, and so does every update of the first round.
    """

    def __init__(self, exchange: Exchange, watch: NormWatch | None = None) -> None:
        self._exchange, self._terms, self._watch = exchange, terms.terms(exchange), watch
        self._waiting: list[tuple[Arrived, Norms]] = []
        self._bytes = 0  # of those that wait
        self._counts = Counter[int]()  # messages, by subspace
        self._noise: dict[int, Tensor] = {}  # what sums of so many subspaces lack under dp, by subspace
        self._reach = 0.0  # no entry of the sum is larger
        self._largest = LARGEST_ENTRY if exchange.method.masking is None else LARGEST  # masked words are no entries
        self.weight = 0.0  # sum_k n_k
        self.left_out: list[tuple[int | None, str]] = []  # (client, why) of those that waited in vain

    def most(self, weight: float) -> float:
        """The largest entry that is taken in an update of this weight, so that the sum stays in float32's range."""
        return min(self._largest, (LARGEST - self._reach) / weight)

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
            raise too_large(update.reach, self.most(update.weight))

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

    def mean(self, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum times `scale`: what the optimizer steps on, and by name what travels beside it, as it is.

        The first is one vector: the parameters; or s of all subspaces, end to end; or, for optimisers that step on what
        messages carry, that.
        """
        if self._exchange.method.server_optimizer.carrier is not None:
            carried, found = terms.carried(self._terms, self._exchange)
            return carried * scale, {name: x * scale for name, x in found.items() if shared_values.as_it_is(name)}
        moved, plain = [torch.zeros(0)], dict[str, Tensor]()
        for i, found in enumerate(self._terms.vectors(self.weight)):
            noise = pieces(self._noise[i], found) if i in self._noise else {}
            for name, x in found.items():
                value = (x + noise[name] if noise else x) * scale
                if not shared_values.as_it_is(name):
                    moved.append(value.reshape(-1))
                else:
                    plain[name] = plain[name] + value if name in plain else value
        return torch.cat(moved), plain


def names(left_out: Sequence[tuple[int | None, str]]) -> dict[int, str]:
    """Reasons by client; -1: updates that came without a link."""
    return {-1 if client is None else client: why for client, why in left_out}
