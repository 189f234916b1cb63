"""Replica: one rank's model, the ends of its links, and when they are used; bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple

from isal.isal_zlib import crc32
from torch import Tensor, nn

from fewbits.errors import LocalError, WireError
from fewbits.facts import shown
from fewbits.learn.shared_values import BUFFER
from fewbits.links import Ledger, Sender
from fewbits.links.finite import all_finite
from fewbits.replicas import replica_state
from fewbits.replicas.count import Counted, count_messages
from fewbits.replicas.joined import Room, joined
from fewbits.replicas.note import noted
from fewbits.replicas.outer_model import Link, OuterModel, OuterState, taking
from fewbits.replicas.state_parts import OWNER, RankEnds, check_same, count, read_sums, sums_of, taken
from fewbits.replicas.tensors import ReplicaTensors, fragments_of, vector_of
from fewbits.replicas.terms import Terms
from fewbits.replicas.vectors import named_views
from fewbits.wire.frame import HEADER_BYTES

Messages = Sequence[bytes | bytearray | memoryview]
MARGIN = 1 << 16  # bytes of a message beside 8 for each number


class Due(NamedTuple):
    """What is to be done after an inner step, in this order; the numbers are those of fragments."""

    send: int | None  # make a message, which travels to all ranks
    land: int | None  # take the messages of all ranks


class Loaded(NamedTuple):
    """A replica's state that was read and has not been taken yet."""

    steps: int
    exchanges: int
    ledger: Ledger
    parts: list[tuple[OuterState, RankEnds, Link]]  # by fragment


class Replica(Counted):
    """One of R equal models. After each inner step do what `due` says, and count the step:

        message = replica.message(due.send)
        messages = ...                          # of all ranks, in the order of ranks
        replica.outer[due.land].prepare(replica.frames(due.land, messages))()
        replica.settle(due.land, messages)
        replica.steps += 1

    `Exchanges` does so.

    Args:
        model: any module; it keeps its tensors.
        terms: equal at all ranks.
        rank: 0 to size - 1.
        size: how many ranks there are.
        outer: another replica's, where one process plays several ranks; its step is then taken once for all.

    Raises:
        LocalError: the model or the codec does not fit; see `ReplicaTensors` and `Terms`.
    """

    path: ClassVar[str] = "to all ranks"  # of its frames, in words

    def __init__(
        self, model: nn.Module, terms: Terms, rank: int, size: int, outer: Sequence[OuterModel] | None = None
    ) -> None:
        self.tensors, self.terms = ReplicaTensors(model), terms
        self.rank, self.ranks, self.steps, self.exchanges = rank, tuple(range(size)), 0, 0
        self._sent: Tensor | None = None  # the values in the message that travels
        self._owed: tuple[OuterModel, Tensor] | None = None  # an outer step that the module does not have, and its sent
        if terms.streaming.delay and self.tensors.whole_bytes:
            raise LocalError("OuterStep: with a delay a model may have no saved buffers of integers, and this one has")
        parts = fragments_of(self.tensors, terms.streaming.fragments)
        made = outer or [OuterModel(self.tensors, names, i, terms, size) for i, names in enumerate(parts)]
        self.outer = list(made)
        self.senders = self.begin_links()
        self._ledger = Ledger()

    def begin_links(self) -> Sequence[RankEnds]:
        """This rank's ends, by fragment; a rank that joined later draws other random numbers than one of its number."""
        later = ("joined", self.exchanges) if self.exchanges else ()
        private = self.terms.key.fold("rank", self.rank)
        return [Sender(part.codec, part.spec, private.fold(i, *later)) for i, part in enumerate(self.outer)]

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.ranks)

    @property
    def first(self) -> bool:
        """Whether this rank is the lowest of those that are there, whose buffers of integers all ranks get."""
        return self.rank == self.ranks[0]

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def facts(self) -> dict[str, str]:
        """What must be equal at all ranks, as texts by name."""
        model, frozen = "; ".join(self.tensors.lines()), "; ".join(self.tensors.frozen_lines())
        return {**self.terms.facts(), "path of frames": self.path, "model": model, "frozen part of the model": frozen}

    def start_digest(self) -> str:
        """A checksum of all values that are equal at all ranks after the start."""
        return " ".join(f"{part.digest:08x}" for part in self.outer) + f" {crc32(self.tensors.whole()):08x}"

    def snapshot(self) -> bytes:
        """All values that are equal at all ranks after the start."""
        return b"".join([*(part.state.theta.numpy().tobytes() for part in self.outer), self.tensors.whole()])

    def restart(self, snapshot: bytes | memoryview) -> None:
        """Begin with the values of another rank's snapshot; WireError, and no change, when it does not fit."""
        thetas, at = [], 0
        for part in self.outer:
            data = snapshot[at : at + part.state.theta.nbytes]
            if len(data) != part.state.theta.nbytes:
                raise WireError(f"rank 0's values for the start are too short: {len(snapshot):,} bytes")
            thetas.append(vector_of(data, part.state.theta.dtype))
            at += len(data)
        if not all(map(all_finite, thetas)):
            raise WireError("rank 0's values for the start are not finite")
        self.tensors.write_whole(snapshot[at:])
        for part, theta in zip(self.outer, thetas, strict=True):
            part.start(part.state._replace(theta=theta))
            self.tensors.write(theta, part.names)
        self.tensors.refresh()

    @property
    def whose(self) -> str:
        """Whose model this is, in words."""
        return f"that of all {self.size} ranks"

    @property
    def most_bytes(self) -> int:
        """The longest message that may come from another rank."""
        return 8 * sum(part.state.theta.numel() for part in self.outer) + self.tensors.whole_bytes + MARGIN

    @property
    def note(self) -> int:
        """The step, and a checksum that is equal at all ranks whose outer models are equal."""
        text = [self.exchanges, *(f"{part.digest} {part.state.rounds}" for part in self.outer)]
        return noted(self.steps + 1, crc32(repr(text).encode()))

    @property
    def due(self) -> Due:
        """What is to be done after the inner step that comes."""
        step, delay = self.steps + 1, self.terms.streaming.delay
        return Due(self._due(step), self._due(step - delay) if step > delay else None)

    @property
    def lands_in(self) -> int:
        """How many steps later the message that travels is used."""
        delay = self.terms.streaming.delay
        return next(i for i in range(1, delay + 2) if self._due(self.steps + i - delay) is not None)

    @property
    def round_start(self) -> int:
        """The step after which the last outer step was taken; 0 before the first."""
        delay = self.terms.streaming.delay
        ends = range(self.steps, max(self.steps - self.terms.every, delay), -1)
        return next((step for step in ends if self._due(step - delay) is not None), 0)

    def _due(self, step: int) -> int | None:
        """The fragment that is sent after this step."""
        count, every = self.terms.streaming.fragments, self.terms.every
        return {(i + 1) * every // count % every: i for i in range(count)}.get(step % every)

    def message(self, fragment: int) -> memoryview:
        """This rank's message: a frame; at rank 0, buffers of integers follow the one of the last fragment.

        Raises:
            LocalError: a value is not finite, as `Sender.send` says.
        """
        part = self.outer[fragment]
        beside = self.beside(fragment)
        room = Room(part.spec.numel, self.tensors.dtype, len(beside))
        (update,) = self.tensors.difference(part.state.theta, part.names, [room.values])
        if self.terms.streaming.delay:
            self._sent = self.tensors.read(part.names)
        sender = self.senders[fragment]
        assert isinstance(sender, Sender)
        pieces = sender.pieces(named_views(update, part.spec), common=part.common)  # takes over the update
        return joined([*pieces, beside], room)

    def rollback(self, fragment: int) -> None:
        """The message did not reach all ranks."""
        self._sent = None
        if self.senders[fragment].pending:
            self.senders[fragment].rollback()

    def frames(self, fragment: int, messages: Messages) -> list[memoryview]:
        """The frames in the messages; WireError when rank 0's is too short."""
        length = self.whole_bytes(fragment)
        if len(messages[0]) < length + HEADER_BYTES:
            least = length + HEADER_BYTES
            raise WireError(f"the message of rank {self.ranks[0]} has {len(messages[0])} bytes; {least} is the least")
        return [memoryview(messages[0])[: len(messages[0]) - length], *map(memoryview, messages[1:])]

    def settle(self, fragment: int, messages: Messages) -> None:
        """The outer step was taken: put the new values into the model, unless it trains on, and count the bytes."""
        part = self.outer[fragment]
        self.senders[fragment].commit()
        if self._sent is None:
            self.tensors.write(part.now.theta, part.names)
        else:
            self._owed, self._sent = (part, self._sent), None
        if length := self.whole_bytes(fragment):
            self.tensors.write_whole(memoryview(messages[0])[-length:])
        self.tensors.refresh()
        self.exchanges += 1
        lengths = {rank: len(message) for rank, message in zip(self.ranks, messages, strict=True)}
        count_messages(self.ledger, self.exchanges, self.rank, lengths, self.senders[fragment].sections)

    def catch_up(self) -> None:
        """Put an outer step that travelled into the module, unless that is another one now, as the next frame says."""
        with suppress(LocalError):  # the other ranks have moved
            self._give()

    def _give(self) -> None:
        """Put an outer step into the module that travelled while training went on: ``theta' + (now - sent)``."""
        if self._owed is not None:
            part, sent = self._owed
            values = part.state.theta + (self.tensors.read(part.names) - sent)
            with taking(self.outer):
                self.tensors.write(values, part.names)
                self.tensors.refresh()
                self._owed = None

    def beside(self, fragment: int) -> bytes:
        """What follows this rank's frame."""
        return self.tensors.whole() if self.first and self.whole_bytes(fragment) else b""

    def whole_bytes(self, fragment: int) -> int:
        return self.tensors.whole_bytes if fragment == len(self.outer) - 1 else 0

    def values(self) -> dict[str, Tensor]:
        """Copies of the outer model's tensors, the same at all ranks, by their names in the module."""
        found: dict[str, Tensor] = {}
        for part in self.outer:
            parts = self.tensors.pieces(part.state.theta, part.names)
            found |= {name.removeprefix(BUFFER): x.clone() for name, x in parts.items()}
        return found

    def state_dict(self) -> dict[str, object]:
        """All that a resumed run needs beside the model, its optimizer and the position in the data.

        Tensors, texts and numbers in dicts and lists, so `torch.load(weights_only=True)` reads it.
        """
        self._give()
        return {
            "facts": self.facts(),
            "rank": self.rank,
            "size": self.size,
            "steps": self.steps,
            "exchanges": self.exchanges,
            "sums": sums_of(self.ledger),
            "fragments": [replica_state.write(*pair) for pair in zip(self.outer, self.senders, strict=True)],
        }

    def read_state(self, state: object) -> Loaded:
        """What `state_dict` gave, in new objects.

        Raises:
            LocalError: it is the state of another rank, run or model; the text has both values.
        """
        check_same(state, self.facts(), {"rank": self.rank, "size": self.size})
        steps, exchanges, ledger = count(state, "steps"), count(state, "exchanges"), read_sums(state)
        parts = taken(state, "fragments", list)
        if len(parts) != len(self.outer):
            raise LocalError(f"{OWNER}: the state has {len(parts)} fragments; there are {len(self.outer)}")
        found = [replica_state.read(*three) for three in zip(parts, self.outer, self.senders, strict=True)]
        return Loaded(steps, exchanges, ledger, found)

    def take_state(self, found: Loaded) -> None:
        """Go on from it; the model is loaded by its owner, and the outer model by who has it."""
        self.steps, self.exchanges, self._ledger, _ = found
        self.senders, self._sent, self._owed = [sender for _, sender, _ in found.parts], None, None


def check_equal_models(first: Replica, other: Replica) -> None:
    """LocalError naming the first tensor in which two ranks' models differ."""
    facts = first.facts(), other.facts()
    for name, text in facts[0].items():
        if text != facts[1][name]:
            ours, theirs = shown(name, facts)
            raise LocalError(f"the models differ: rank {first.rank} has {ours}; rank {other.rank} has {theirs}")
