"""Terms: what a round's updates become, one running sum or a robust mean of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewbits.codecs import Partial, TreeTotal, same
from fewbits.codecs.base import wide
from fewbits.codecs.lifts.lift import Group, cut
from fewbits.errors import LocalError
from fewbits.federated.arrived import Arrived
from fewbits.federated.exchange import Exchange
from fewbits.federated.norm_watch import KINDS, kinds_of
from fewbits.learn.aggregation import Aggregator, Updates
from fewbits.learn.aggregation.updates import Row
from fewbits.privacy.pairwise_masking import MaskedTotal
from fewbits.privacy.secure_sum import ServerEnd

Total = TreeTotal | MaskedTotal


class Terms(ABC):
    """The updates of one round."""

    @abstractmethod
    def add(self, update: Arrived) -> None:
        """Add one update."""

    @abstractmethod
    def vectors(self, weight: float) -> list[dict[str, Tensor]]:
        """`weight` times the updates' mean, by name, for each subspace."""


class Sums(Terms):
    """sum_k n_k update_k, one for each subspace that clients send from. An update's memory is free again at once."""

    def __init__(self, exchange: Exchange) -> None:
        self.totals: list[Total] = exchange.totals()
        self._exchange = exchange
        self._plain: TreeTotal | None = None  # of updates that came without a link

    def add(self, update: Arrived) -> None:
        if not update.plain:
            self.totals[update.subspace].add(update.parts, update.weight)
            return
        if self._plain is None:
            self._plain = PlainTotal(self._exchange.up, self._exchange.update)
        self._plain.add(update.parts, update.weight)

    def vectors(self, weight: float) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = [total.value() for total in self.totals]
        if self._plain is not None:
            plain = self._plain.value()
            found[0] = {name: x + plain[name] for name, x in found[0].items()}
        return found


class PlainTotal(TreeTotal):
    """A sum of vectors that went through no codec."""

    def value(self) -> dict[str, Tensor]:
        return cut(self.carried, self.groups, self.spec)


class Robust(Terms):
    """All updates of a round, in memory of their own, for an Aggregator; parameters and the rest each by themselves."""

    def __init__(self, exchange: Exchange, aggregator: Aggregator) -> None:
        self._exchange, self._aggregator = exchange, aggregator
        self._groups = exchange.up.groups(exchange.sent)
        self._space = exchange.method.space
        self._updates: list[Arrived] = []

    def add(self, update: Arrived) -> None:
        self._updates.append(update.copied())

    def vectors(self, weight: float) -> list[dict[str, Tensor]]:
        made = self._made() if self._updates else [torch.zeros(n * g.spec.numel) for n, g in self._wide]
        several = [
            [x * weight] if n == 1 else (x * weight).chunk(n) for x, (n, _) in zip(made, self._wide, strict=True)
        ]
        found = []
        for which in range(max(map(len, several))):  # what lies in no subspace stands in the first
            vectors = [of[which] if which < len(of) else torch.zeros_like(of[0]) for of in several]
            found.append(cut(vectors, self._groups, self._exchange.update))
        return found

    @property
    def _wide(self) -> list[tuple[int, Group]]:
        """Each group, and in how many subspaces its vectors lie."""
        many = self._space.subspaces if self._space else 1
        return [(many if kind == 0 else 1, g) for kind, g in zip(kinds_of(self._exchange), self._groups, strict=True)]

    def _made(self) -> list[Tensor]:
        """The robust mean of each group, expanded."""
        kinds, found = kinds_of(self._exchange), dict[int, Tensor]()
        for k in range(len(KINDS)):
            chosen = [i for i, of in enumerate(kinds) if of == k]
            pairs = [self._matrix(i) for i in chosen]
            means = self._aggregator([updates for updates, _ in pairs]) if pairs else []
            found |= {i: expand(mean) for i, mean, (_, expand) in zip(chosen, means, pairs, strict=True)}
        return [found[i] for i in range(len(self._groups))]

    def _matrix(self, i: int) -> tuple[Updates, Callable[[Tensor], Tensor]]:
        """(the updates of one group, what expands a vector of their space)."""
        (several, group), parts = self._wide[i], [update.parts[i] for update in self._updates]
        common = all(same(part.side, parts[0].side) for part in parts)
        if common and not any(update.plain for update in self._updates) and several == 1:
            size = len(parts[0].values) if parts[0].support is None else group.spec.numel
            side = parts[0].side
            return Updates([_row(p) for p in parts], size), lambda x: group.codec.complete(x, side, wide(group.spec))
        rows = [self._expanded(group, update, update.parts[i], several) for update in self._updates]
        return Updates(rows, group.spec.numel * several), lambda x: x

    def _expanded(self, group: Group, update: Arrived, part: Partial, several: int) -> Row:
        """A client's vector in the space of the update, or of all subspaces end to end."""
        row = _row(part)
        if not update.plain and part.support is None:
            row = Row(group.codec.complete(row.values, part.side, wide(group.spec)))
        if several == 1:
            return row
        here = torch.arange(group.spec.numel) if row.support is None else row.support
        return Row(row.values, here + update.subspace * group.spec.numel)


def _row(part: Partial) -> Row:
    values = part.values.to(torch.float32)
    return Row(values if part.scale == 1.0 else values * part.scale, part.support)


def terms(exchange: Exchange) -> Terms:
    """Empty terms, as the method sums or compares them."""
    aggregator = exchange.method.aggregator
    return Sums(exchange) if aggregator is None else Robust(exchange, aggregator)


def carried(found: Terms, exchange: Exchange) -> tuple[Tensor, dict[str, Tensor]]:
    """(the sum of the parameters as messages carry it, not expanded; all other sums by name)."""
    total = found.totals[0] if isinstance(found, Sums) else None
    if not isinstance(total, TreeTotal):
        raise LocalError("a robust mean and a masked sum are not carried")
    group = kinds_of(exchange).index(0)
    return total.carried[group], total.beside(group)


def unmask(found: Terms, server: ServerEnd) -> None:
    """Take the masks off sums; WireError when too few clients arrived, or one of them lied."""
    assert isinstance(found, Sums)
    for total in found.totals:
        assert isinstance(total, MaskedTotal)
        total.unmask(server)
