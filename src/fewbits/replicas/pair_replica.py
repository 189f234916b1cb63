"""PairReplica: one rank's own model, which steps together with one random partner; bytes in, bytes out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewbits.errors import WireError
from fewbits.learn.one_thread import one_thread
from fewbits.links import Ledger, Receiver
from fewbits.links.finite import all_finite, check_finite
from fewbits.replicas import final_mean, replica_state
from fewbits.replicas.count import count_exchange, count_messages
from fewbits.replicas.from_rank import from_rank
from fewbits.replicas.joined import joined
from fewbits.replicas.note import noted
from fewbits.replicas.outer_model import OuterState
from fewbits.replicas.pair_ends import PairEnds
from fewbits.replicas.partners import partner_of
from fewbits.replicas.replica import Messages, Replica
from fewbits.replicas.state_parts import RankEnds, check_same, count, read_like, read_sums, sums_of
from fewbits.replicas.terms import Terms
from fewbits.replicas.vectors import end_to_end


class LoadedPair(NamedTuple):
    """A rank's state that was read and has not been taken yet."""

    steps: int
    exchanges: int
    ledger: Ledger
    outer: OuterState
    start: Tensor
    ends: PairEnds
    averaged: int


class _Prepared(NamedTuple):
    """An outer step that was computed and not taken."""

    outer: OuterState
    receiver: Receiver | None
    received: int  # bytes
    distance: float


class PairReplica(Replica):
    """One of R models that differ. When an exchange is due after an inner step:

        message = replica.message()             # for `partner`; empty when the rank steps alone
        messages = ...                          # by rank; only the partner's is read
        replica.prepare(messages)
        replica.settle()

    `PairExchanges` does so. Saved buffers of integers stay each rank's own.

    Args:
        model: any module; it keeps its tensors.
        terms: equal at all ranks, with a `partner`.
        rank: 0 to size - 1.
        size: how many ranks there are.
    """

    path = "to one partner"

    def __init__(self, model: nn.Module, terms: Terms, rank: int, size: int) -> None:
        super().__init__(model, terms, rank, size)
        (self._part,) = self.outer
        self._ends = PairEnds(self._part.codec, self._part.spec, terms.key.fold("rank", rank))
        self._start: Tensor | None = None  # theta that all ranks began with; None: it is theta now
        self._update, self._length = torch.zeros(0), 0  # of the message that travels: u, and its length in bytes
        self._prepared: _Prepared | None = None
        self.distance = 0.0  # 2-norm of the difference to the last partner, of what both sent
        self._averaged = -1  # the step after which the models became their mean

    def begin_links(self) -> Sequence[RankEnds]:
        return []  # one for each peer, in `PairEnds`

    @property
    def exchange_due(self) -> bool:
        """Whether an exchange follows the inner step that comes."""
        return (self.steps + 1) % self.terms.every == 0

    @property
    def partner(self) -> int:
        """The partner of the next exchange; this rank itself, when it steps alone."""
        return partner_of(self.terms.key, self.exchanges, self.rank, self.size)

    @property
    def peers(self) -> set[int]:
        """The other ranks that take part in this one's next exchange: one, or none."""
        return {self.partner} - {self.rank}

    @property
    def whose(self) -> str:
        if self._averaged == self.steps:
            return f"the mean of {self.size} ranks"
        return f"rank {self.rank}'s own, one of {self.size}"

    @property
    def note(self) -> int:
        return noted(self.steps + 1, self.exchanges & 0xFFFFFFFF)

    def message(self, fragment: int = 0) -> memoryview:
        """The frame for the partner.

        Raises:
            LocalError: a value is not finite, as `Sender.send` says.
        """
        part, peer = self._part, self.partner
        (self._update,) = self.tensors.difference(part.state.theta, part.names)
        if peer == self.rank:
            check_finite(self.tensors.pieces(self._update, part.names), "OuterStep")
            return memoryview(b"")
        start = part.state.theta if self._start is None else self._start
        sender = self._ends.meet(peer, self.tensors.pieces(start, part.names))
        sent = torch.sub(part.state.theta, self._update)
        assert self.terms.partner is not None
        if (pull := self.terms.partner.pull) != 1:
            n = part.trained
            torch.sub(part.state.theta[:n], self._update[:n], alpha=1 / float(pull), out=sent[:n])
        message = joined(sender.pieces(self.tensors.pieces(sent, part.names), common=part.common))
        self._length = len(message)
        return message

    def prepare(self, messages: Messages) -> None:
        """Compute the outer step from the partner's frame; nothing moves.

        Raises:
            WireError: the frame is damaged or not the next one of its link, or the step would leave the range of the
                model's floats.
        """
        part, peer, update = self._part, self.partner, self._update
        receiver, received, distance = None, 0, 0.0
        with one_thread():
            if peer != self.rank:
                receiver, received = copy.copy(self._ends.receivers[peer]), len(messages[peer])
                with from_rank(peer):
                    theirs = receiver.receive(memoryview(messages[peer]), part.common)
                apart = end_to_end(self._ends.senders[peer].value).sub(end_to_end(theirs))
                distance = float(torch.linalg.vector_norm(apart, dtype=torch.float64))
                assert self.terms.partner is not None
                apart[: part.trained].mul_(float(self.terms.partner.pull))  # buffers go to their mean
                update = update.add(apart, alpha=0.5)
            self._prepared = _Prepared(part.stepped(update), receiver, received, distance)

    def rollback(self, fragment: int = 0) -> None:
        """No message reached its receiver."""
        self._prepared = None
        self._ends.rollback()

    def settle(self, fragment: int = 0, messages: Messages = ()) -> None:
        """Take the step that was prepared, and count the bytes."""
        assert self._prepared is not None
        part, peer, (outer, receiver, received, distance) = self._part, self.partner, self._prepared
        self._start = part.now.theta if self._start is None else self._start
        self._prepared, self.exchanges = None, self.exchanges + 1
        part.start(outer)
        if receiver is not None:
            sender = self._ends.senders[peer]
            sender.commit()
            self._ends.receivers[peer], self.distance = receiver, distance
            count_exchange(self.ledger, self.exchanges, peer, self._length, received, sender.sections)
        self.tensors.write(outer.theta, part.names)
        self.tensors.refresh()

    def average_message(self) -> memoryview:
        """What the module holds now, in float32, for all ranks; rank 0's buffers of integers follow its frame."""
        part = self._part
        self._update = self.tensors.read(part.names)
        check_finite(values := self.tensors.pieces(self._update, part.names), "OuterStep.average")
        return joined([*final_mean.pieces(values, part.spec), self.beside(0)])

    def mean_of(self, messages: Messages) -> tuple[Tensor, float]:
        """The mean of the models in the messages of all ranks, and how far they are from it.

        WireError when a frame is damaged or the mean exceeds the floats' range.
        """
        with one_thread():
            mean, distance = final_mean.mean_of(self.frames(0, messages), self._part.spec)
        if not all_finite(mean):
            raise WireError(f"the mean of {self.size} models would leave the range of {mean.dtype}")
        self._part.check(mean)
        return mean, distance

    def become(self, mean: Tensor, messages: Messages) -> None:
        """Take the mean of all ranks as module and as slow weights; moments and links stay."""
        part = self._part
        part.start(part.now._replace(theta=mean))
        self.tensors.write(mean, part.names)
        if self.tensors.whole_bytes:
            self.tensors.write_whole(memoryview(messages[0])[-self.tensors.whole_bytes :])
        self.tensors.refresh()
        self._averaged = self.steps
        lengths = {rank: len(message) for rank, message in enumerate(messages)}
        count_messages(self.ledger, self.exchanges, self.rank, lengths, ())

    def state_dict(self) -> dict[str, object]:
        """All that a resumed run needs beside the model, its optimizer and the position in the data."""
        part = self._part
        return {
            "facts": self.facts(),
            "rank": self.rank,
            "size": self.size,
            "whose": self.whose,
            "averaged": self._averaged + 1,
            "steps": self.steps,
            "exchanges": self.exchanges,
            "sums": sums_of(self.ledger),
            **replica_state.values(part),
            "start": part.state.theta.clone() if self._start is None else self._start.clone(),
            "peers": self._ends.dump(),
        }

    def read_pair(self, state: object) -> LoadedPair:
        """What `state_dict` gave, in new objects.

        Raises:
            LocalError: it is the state of another rank, run or model; the text has both values.
        """
        check_same(state, self.facts(), {"rank": self.rank, "size": self.size})
        outer = replica_state.read_values(state, self._part)
        start = read_like(state.get("start") if isinstance(state, Mapping) else None, self._part.now.theta)
        ends = self._ends.read(state, self.size, self.rank)
        steps, exchanges, averaged = (count(state, name) for name in ("steps", "exchanges", "averaged"))
        return LoadedPair(steps, exchanges, read_sums(state), outer, start, ends, averaged - 1)

    def take_pair(self, found: LoadedPair) -> None:
        """Go on from it; the model is loaded by its owner."""
        self.steps, self.exchanges, self._ledger, outer, self._start, self._ends, self._averaged = found
        self._part.start(outer)
        self._prepared = None
