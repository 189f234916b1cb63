"""Replies as a strategy sees them: read one by one, then made alike, since a stock strategy takes no others.

A stock strategy ends the run when one client's metrics, weight or arrays differ in form from the others'. What is
wrong with one reply alone costs that client its turn. Where honest replies differ, all of them count, and the metrics
are those of most clients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from fewbits.checks import check_number
from fewbits.engines.common import flower_version
from fewbits.engines.flower.order import chain
from fewbits.errors import WireError
from fewbits.federated.round_sum import LARGEST_ENTRY

LEAST, MOST = 1e-30, 1e30  # of a weight, so that no sum of weights leaves a float's range
MEDIANS = 100.0  # times the median weight of a round: more than that no client counts, unless `max_weight` says so
NORM_BIT = "norm_bit"  # Flower's name of the metric by which clients say that they clipped
BEARS_FAILURES = (1, 25)  # older versions of Flower end the run when all replies are failures
LEFT_OUT = 0  # Flower's code of an error of no kind of its own
MaxWeight = float | Mapping[int, float] | None


@dataclass
class ClientReply:
    """One reply, as far as its form was read."""

    message: Message  # with plain records once it is opened
    client: int | None  # None: a plain client
    frame: bytes = b""
    part: bytes = b""  # the arrays that travel as they are; empty: as the server sent them
    custom: bool = False  # an answer to a message with arrays of its own, which came as they are
    arrays: str = ""  # the key of the ArrayRecord
    weight: float = 0.0
    values: dict[str, Array] = field(default_factory=dict)  # the client's arrays, once they are decoded
    clip: float | None = None  # the norm that its update may have, where the client was told one

    @property
    def who(self) -> int:
        """For counting: the client's number, or a negative one for a plain node."""
        return ~self.message.metadata.src_node_id if self.client is None else self.client

    @property
    def name(self) -> str:
        """For a sentence."""
        node = self.message.metadata.src_node_id
        return f"plain node {node}" if self.client is None else f"client {self.client}"

    def failure(self, why: str) -> Message:
        """The same reply as an error, which is how Flower's own strategies count it."""
        return _message(self.message, error=Error(LEFT_OUT, why))


@dataclass(frozen=True)
class Demands:
    """What one strategy cannot do without in a reply."""

    weighted_by: str | None  # the metric that replies weigh by
    loss: str | None  # the metric that q-FedAvg raises to a power
    others: tuple[str, ...]  # metrics that must be there
    uniform: bool  # whether it ends the run when replies differ in their metrics
    stock: bool  # whether it ends the run when replies differ in their arrays
    max_weight: MaxWeight
    strategy: Strategy  # the innermost one
    divides: bool = False  # whether it divides by the number of replies, so that no reply would end the run
    bears_failures: bool = True  # whether it goes on when all replies are failures

    @staticmethod
    def of(strategy: Strategy, max_weight: MaxWeight) -> Demands:
        """Of the strategy, or of the one inside it, where it is a wrapper such as those of dp."""
        _check_bound(max_weight)
        found = chain(strategy)
        last = found[-1]
        clipped = any(_is_a(each, "ClientSideAdaptive") for each in found)
        return Demands(
            getattr(last, "weighted_by_key", None),
            vars(last)["train_loss_key"] if _is_a(last, "QFedAvg") else None,
            (NORM_BIT,) if clipped else (),
            isinstance(last, FedAvg),
            isinstance(last, FedAvg) and type(last).aggregate_train.__module__.startswith("flwr."),
            max_weight,
            last,
            any(_is_a(each, "AdaptiveClipping") for each in found),
            flower_version.release(flower_version.installed() or "") >= BEARS_FAILURES,
        )

    def read(self, reply: ClientReply, kind: str) -> None:
        """Its weight and the name of its arrays; WireError when a strategy could not use it."""
        content = reply.message.content
        metrics = content.metric_records
        if isinstance(content.get(reply.arrays), MetricRecord | ConfigRecord):
            raise WireError(f"its arrays and another record have the same name, {ascii(reply.arrays)[:80]}")
        if self.uniform and len(metrics) != 1:
            raise WireError(f"a reply has one MetricRecord; got {len(metrics)}: {sorted(metrics)}")
        reply.arrays = reply.arrays or next(iter(content.array_records), "")
        found: Mapping[str, Any] = next(iter(metrics.values()), {})
        if self.weighted_by is not None:
            reply.weight = self._weight(found.get(self.weighted_by), reply.client)
        if kind != "train":
            return
        if self.loss is not None:
            _number(self.loss, found.get(self.loss), LARGEST_ENTRY)
        for name in self.others:
            if name not in found:
                raise WireError(f"its metrics have no {name!r}, which the strategy needs")

    def _weight(self, found: Any, client: int | None) -> float:
        bound = self.max_weight
        if isinstance(bound, Mapping):
            bound = None if client is None else bound.get(client)
        weight = _number(str(self.weighted_by), found, MOST)
        if 0 < weight < LEAST:
            raise WireError(f"{self.weighted_by} must be 0 or at least {LEAST}; got {weight!r}")
        if bound is not None and weight > bound:
            raise WireError(f"{self.weighted_by} must be at most {bound:g}, its max_weight; got {weight:g}")
        return weight

    def weightless(self, replies: list[ClientReply]) -> bool:
        """Whether there are replies and none of them weighs anything, so that there is no mean."""
        return bool(replies) and self.weighted_by is not None and not any(reply.weight for reply in replies)

    def heavy(self, replies: list[ClientReply]) -> list[tuple[ClientReply, str]]:
        """Replies that weigh more than `MEDIANS` medians of three or more, where no `max_weight` is known."""
        weights = [reply.weight for reply in replies if reply.weight > 0]
        if self.weighted_by is None or len(weights) < 3:
            return []
        most = MEDIANS * median(weights)
        why = f"{self.weighted_by} is more than {MEDIANS:g} times the median of this round; max_weight= allows it"
        return [(r, f"{why}: {r.weight:g}") for r in replies if r.weight > most and not self._known(r.client)]

    def alike(self, replies: list[ClientReply], say: Callable[[str], None]) -> tuple[list[Message], list[Message]]:
        """See `alike`; where the strategy takes what comes, replies stay as they are."""
        return alike(replies, say) if self.uniform else ([reply.message for reply in replies], [])

    def given(self, messages: list[Message], failures: list[Message]) -> list[Message]:
        """What the strategy gets: all, or nothing where its version of Flower ends the run at failures alone."""
        return messages + failures if messages or self.bears_failures else []

    def _known(self, client: int | None) -> bool:
        bound = self.max_weight
        return client in bound if isinstance(bound, Mapping) else bound is not None


def _message(like: Message, **parts: Any) -> Message:
    """Another message with the same metadata; Flower declares no signature for it."""
    made: Any = Message
    return made(metadata=like.metadata, **parts)


def _is_a(strategy: Strategy, name: str) -> bool:
    """Whether it is of a class with that in its name; older versions of Flower have fewer classes to import."""
    return any(name in kind.__name__ for kind in type(strategy).__mro__)


def _check_bound(bound: MaxWeight) -> None:
    for value in bound.values() if isinstance(bound, Mapping) else [] if bound is None else [bound]:
        check_number("max_weight", value, "(0, inf)")


def _number(name: str, found: Any, most: float) -> float:
    """A finite number from 0 to `most`."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise WireError(f"{name} must be a finite number in 0..{most:g}; got {ascii(found)[:80]}")
    return float(found)


def check_values(values: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray]) -> None:
    """WireError names the first array with a value that no sum or square of it would survive.

    Constants that are not finite in `sent` may come back so, and values may be twice as large as they are there.
    """
    for name, x in values.items():
        known = name in sent
        if x.dtype.kind not in ("fciu" if known else "fc") or (known and not np.isfinite(sent[name]).all()):
            continue
        found, most = _largest(x), max(LARGEST_ENTRY, 2 * _largest(sent[name]) if known else 0.0)
        if not math.isfinite(found):
            raise WireError(f"{name} is not finite")
        if found > most:
            raise WireError(f"{name} has a value of magnitude {found:.3g}; at most {most:g} are taken")


def _largest(x: np.ndarray) -> float:
    """The largest magnitude; 0 of no numbers."""
    return float(np.abs(x.astype(np.float64) if x.dtype.kind in "biu" else x).max()) if x.size else 0.0


def alike(replies: list[ClientReply], say: Callable[[str], None]) -> tuple[list[Message], list[Message]]:
    """(all replies in one form, those of most clients as they are); the second is empty when all are alike.

    The one form has the metrics that all replies have in common, under one name.
    """
    signatures = [_signature(reply.message.content) for reply in replies]
    if len(set(signatures)) <= 1:
        return [reply.message for reply in replies], []
    usual = Counter(signatures).most_common(1)[0][0]
    for reply, found in zip(replies, signatures, strict=True):
        if found != usual:
            say(f"{reply.name} has other metrics than most, {found}, not {usual}; they do not count, its arrays do")
    most = [reply.message for reply, found in zip(replies, signatures, strict=True) if found == usual]
    shared = set.intersection(*(_metrics(reply) for reply in replies))
    name, names = next(iter(most[0].content.metric_records)), {key for key, _ in shared}
    return [_reduced(reply.message, name, names) for reply in replies], most


def with_values(replies: list[ClientReply]) -> None:
    """Put decoded arrays into their messages, under the name that most clients give them."""
    names = Counter(reply.arrays for reply in replies if reply.values)
    for reply in replies:
        if reply.values:
            key = names.most_common(1)[0][0]
            rest = {n: r for n, r in reply.message.content.items() if not isinstance(r, ArrayRecord)}
            aside = {f"{n} of the client" if n == key else n: r for n, r in rest.items()}
            reply.message.content = RecordDict({key: ArrayRecord(reply.values), **aside})


def _reduced(message: Message, name: str, shared: set[str]) -> Message:
    """A copy with one MetricRecord of that name, of the shared metrics."""
    content = message.content
    metrics = next(iter(content.metric_records.values()))
    arrays = {key: record for key, record in content.items() if isinstance(record, ArrayRecord | ConfigRecord)}
    found = MetricRecord({key: value for key, value in metrics.items() if key in shared})
    return _message(message, content=RecordDict({**arrays, name: found}))


def _metrics(reply: ClientReply) -> set[tuple[str, int]]:
    """Its metrics with their lengths, -1 for a number."""
    metrics = next(iter(reply.message.content.metric_records.values()), {})
    return {(key, len(x) if isinstance(x, list) else -1) for key, x in metrics.items()}


def _signature(content: RecordDict) -> str:
    """Which metrics there are, and how long those are that are lists; -1 for a number."""
    found = {
        name: {key: len(x) if isinstance(x, list) else -1 for key, x in sorted(record.items())}
        for name, record in content.metric_records.items()
    }
    return str(found)
