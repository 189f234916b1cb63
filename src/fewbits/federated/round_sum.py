"""RoundSum: the weighted sum of one round's updates, taken before they are expanded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewbits.codecs import Partial, TreeTotal
from fewbits.codecs.flat_view import pieces
from fewbits.errors import WireError
from fewbits.federated.exchange import Exchange
from fewbits.learn import shared_values
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.pairwise_masking import MaskedTotal
from fewbits.privacy.secure_sum import ServerEnd
from fewbits.rng import Key

LARGEST = torch.finfo(torch.float32).max


class RoundSum:
    """sum_k n_k update_k over the clients so far, one sum for each subspace that they send from."""

    def __init__(self, exchange: Exchange) -> None:
        self._totals = exchange.totals()
        self._plain: Tensor | None = None  # of updates that came without a link
        self._counts = [0] * len(self._totals)  # messages in each
        self._noise: dict[int, Tensor] = {}  # what sums of so many subspaces lack under dp, by subspace
        self._reach = 0.0  # no entry of the sum is larger
        self.weight = 0.0  # sum_k n_k

    def most(self, weight: float) -> float:
        """The largest entry of an update of this weight that keeps the sum within float32's range."""
        return (LARGEST - self._reach) / weight

    def add(self, partials: Sequence[Partial], weight: float, reach: float, subspace: int = 0) -> None:
        """Add one decoded message; no entry of it is larger than `reach`."""
        self._totals[subspace].add(partials, weight)
        self._counts[subspace] += 1
        self.weight += weight
        self._reach += weight * reach

    def add_plain(self, update: Mapping[str, Tensor], weight: float) -> None:
        """Add an update that came without a link."""
        vector = shared_values.vector(update).mul_(weight)
        self._plain = vector if self._plain is None else self._plain + vector
        self.weight += weight

    def add_missing_noise(self, privacy: DifferentialPrivacy, asked: int, key: Key) -> None:
        """Bring the noise of every sum to what dp promises, as if all of those asked had arrived.

        `key` is the server's for this round. The sums are folded into it, so two different sums share no noise when a
        server that was restored plays a round again.
        """
        for i, (total, count) in enumerate(zip(self._totals, self._counts, strict=True)):
            values = shared_values.vector(total.value())
            digest = hashlib.blake2b(values.numpy().tobytes()).hexdigest()
            noise = privacy.missing(len(values), asked, count, key.fold(i, digest))
            if noise is not None:
                self._noise[i] = noise

    @property
    def empty(self) -> bool:
        """Whether there is nothing to move by: no update and no noise."""
        return not self.weight and not self._noise

    def unmask(self, server: ServerEnd) -> str:
        """Take the masks off; why they stay in the sum, which says nothing then, or "" when they are off."""
        try:
            for total in self._totals:
                assert isinstance(total, MaskedTotal)
                total.unmask(server)
        except WireError as error:
            return str(error)
        return ""

    def carried(self, scale: float) -> Tensor:
        """The sum as messages carry it, not expanded, for optimisers that step on it."""
        (total,) = self._totals
        assert isinstance(total, TreeTotal)
        return total.carried[0] * scale

    def values(self, scale: float) -> dict[str, Tensor]:
        """The sum times `scale`, by wire name."""
        found = {name: x * scale for name, x in self._totals[0].value().items()}
        for more in (self._plain, self._noise.get(0)):
            if more is not None:
                added = pieces(more * scale, found)
                found = {name: x + added[name] for name, x in found.items()}
        return found

    def coordinates(self, name: str, scale: float) -> Tensor:
        """The sums of all subspaces end to end, times `scale`.  # (k * dim,)"""
        sums = [total.value()[name] for total in self._totals]
        return torch.cat([(x + self._noise[i] if i in self._noise else x) * scale for i, x in enumerate(sums)])
