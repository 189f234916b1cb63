"""Replica: one rank's model, the ends of its links, and when they are used; bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from isal.isal_zlib import crc32
from torch import Tensor, nn

from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError, WireError
from fewbits.learn.shared_values import BUFFER
from fewbits.links import Ledger, Sender
from fewbits.replicas import replica_state
from fewbits.replicas.count import count_messages
from fewbits.replicas.outer_model import OuterModel
from fewbits.replicas.state_parts import OWNER, check_same, count, read_sums, sums_of, taken
from fewbits.replicas.tensors import ReplicaTensors, fragments_of
from fewbits.replicas.terms import Terms
from fewbits.wire.frame import HEADER_BYTES

Messages = Sequence[bytes | bytearray | memoryview]
MARGIN = 1 << 16  # bytes of a message beside 8 for each number


class Due(NamedTuple):
    """What is to be done after an inner step, in this order; the numbers are those of fragments."""

    send: int | None  # make a message, which travels to all ranks
    land: int | None  # take the messages of all ranks


class Replica:
    """One of R equal models. After each inner step call `advance`, and do what the turn says:

        message = replica.message(turn.send)
        messages = ...                          # of all ranks, in the order of ranks
        replica.outer[turn.land].apply(replica.frames(turn.land, messages))
        replica.settle(turn.land, messages)

    Args:
        model: any module; it keeps its tensors.
        terms: equal at all ranks.
        rank: 0 to size - 1.
        size: how many ranks there are.
        outer: another replica's, where one process plays several ranks; `apply` is then called once for all.

    Raises:
        LocalError: the model or the codec does not fit; see `ReplicaTensors` and `Terms`.
    """

    def __init__(
        self, model: nn.Module, terms: Terms, rank: int, size: int, outer: Sequence[OuterModel] | None = None
    ) -> None:
        self.tensors, self.terms = ReplicaTensors(model), terms
        self.rank, self.size, self.steps, self.exchanges = rank, size, 0, 0
        self._sent: Tensor | None = None  # the values in the message that travels
        if terms.streaming.delay and self.tensors.whole_bytes:
            raise LocalError("OuterStep: with a delay a model may have no saved buffers of integers, and this one has")
        parts = fragments_of(self.tensors, terms.streaming.fragments)
        made = outer or [OuterModel(self.tensors, names, i, terms, size) for i, names in enumerate(parts)]
        self.outer = list(made)
        self.senders = [
            Sender(part.codec, part.spec, terms.key.fold("rank", rank, i)) for i, part in enumerate(self.outer)
        ]
        self.ledger = Ledger()

    def facts(self) -> dict[str, str]:
        """What must be equal at all ranks, as texts by name."""
        frozen = f"{self.tensors.frozen_digest():08x}"
        return {**self.terms.facts(), "model": "; ".join(self.tensors.lines()), "frozen parameters": frozen}

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
            thetas.append(torch.frombuffer(bytearray(data), dtype=part.state.theta.dtype))
            at += len(data)
        self.tensors.write_whole(snapshot[at:])
        for part, theta in zip(self.outer, thetas, strict=True):
            part.start(part.state._replace(theta=theta))
            self.tensors.write(theta, part.names)
        self.tensors.refresh()

    @property
    def most_bytes(self) -> int:
        """The longest message that may come from another rank."""
        return 8 * sum(part.state.theta.numel() for part in self.outer) + self.tensors.whole_bytes + MARGIN

    @property
    def note(self) -> int:
        """31 bits that are equal at all ranks whose steps, parameters and moments' history are equal."""
        text = [self.steps, self.exchanges, *(f"{part.digest} {part.state.rounds}" for part in self.outer)]
        return crc32(repr(text).encode()) >> 1

    def advance(self) -> Due:
        """Count an inner step; what is to be done after it."""
        self.steps += 1
        delay = self.terms.streaming.delay
        return Due(self._due(self.steps), self._due(self.steps - delay) if self.steps > delay else None)

    def _due(self, step: int) -> int | None:
        """The fragment that is sent after this step."""
        count, every = self.terms.streaming.fragments, self.terms.every
        return {(i + 1) * every // count % every: i for i in range(count)}.get(step % every)

    def message(self, fragment: int) -> bytearray:
        """This rank's message: a frame; at rank 0, buffers of integers follow the one of the last fragment.

        Raises:
            LocalError: a value is not finite, as `Sender.send` says.
        """
        part = self.outer[fragment]
        if self.terms.streaming.delay:
            self._sent = self.tensors.read(part.names)
        update = self.tensors.difference(part.state.theta, part.names)
        pieces = self.senders[fragment].pieces(update, common=part.common)  # takes over the update
        return bytearray().join([*pieces, self._beside(fragment)])

    def rollback(self, fragment: int) -> None:
        """The message did not reach all ranks."""
        self._sent = None
        if self.senders[fragment].pending:
            self.senders[fragment].rollback()

    def frames(self, fragment: int, messages: Messages) -> list[memoryview]:
        """The frames in the messages; WireError when rank 0's is too short."""
        length = self._whole_bytes(fragment)
        if len(messages[0]) < length + HEADER_BYTES:
            raise WireError(f"the message of rank 0 has {len(messages[0])} bytes; {length + HEADER_BYTES} is the least")
        return [memoryview(messages[0])[: len(messages[0]) - length], *map(memoryview, messages[1:])]

    def settle(self, fragment: int, messages: Messages) -> None:
        """The outer step was taken: put the new values into the model, and count the bytes."""
        part = self.outer[fragment]
        self.senders[fragment].commit()
        values = part.state.theta
        if self._sent is not None:
            values, self._sent = values + (self.tensors.read(part.names) - self._sent), None
        self.tensors.write(values, part.names)
        if length := self._whole_bytes(fragment):
            self.tensors.write_whole(memoryview(messages[0])[-length:])
        self.tensors.refresh()
        self.exchanges += 1
        lengths = [len(message) for message in messages]
        count_messages(self.ledger, self.exchanges, self.rank, lengths, self.senders[fragment].sections)

    def _beside(self, fragment: int) -> bytes:
        return self.tensors.whole() if self.rank == 0 and self._whole_bytes(fragment) else b""

    def _whole_bytes(self, fragment: int) -> int:
        return self.tensors.whole_bytes if fragment == len(self.outer) - 1 else 0

    def values(self) -> dict[str, Tensor]:
        """Copies of the outer model's tensors, the same at all ranks, by their names in the module."""
        found: dict[str, Tensor] = {}
        for part in self.outer:
            like = {name: self.tensors.shared[name] for name in part.names}
            found |= {name.removeprefix(BUFFER): x.clone() for name, x in pieces(part.state.theta, like).items()}
        return found

    def state_dict(self) -> dict[str, object]:
        """All that a resumed run needs beside the model, its optimizer and the position in the data.

        Raises LocalError while a message travels, as it does for `delay` steps.


        Tensors, texts and numbers in dicts and lists, so `torch.load(weights_only=True)` reads it.
        """
        if any(sender.pending for sender in self.senders):
            delay = self.terms.streaming.delay
            raise LocalError(f"OuterStep.state_dict: a frame travels; ask again once it was used, {delay} steps later")
        return {
            "facts": self.facts(),
            "rank": self.rank,
            "size": self.size,
            "steps": self.steps,
            "exchanges": self.exchanges,
            "sums": sums_of(self.ledger),
            "fragments": [replica_state.write(*pair) for pair in zip(self.outer, self.senders, strict=True)],
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from what `state_dict` gave; the model itself is loaded by its owner.

        Raises:
            LocalError: it is the state of another rank, run or model; the text has both values. Nothing has changed.
        """
        check_same(state, self.facts(), {"rank": self.rank, "size": self.size})
        steps, exchanges, ledger = count(state, "steps"), count(state, "exchanges"), read_sums(state)
        parts = taken(state, "fragments", list)
        if len(parts) != len(self.outer):
            raise LocalError(f"{OWNER}: the state has {len(parts)} fragments; there are {len(self.outer)}")
        found = [replica_state.read(*three) for three in zip(parts, self.outer, self.senders, strict=True)]
        self.steps, self.exchanges, self.ledger = steps, exchanges, ledger
        for i, (after, sender, link) in enumerate(found):
            self.senders[i], self.outer[i].link = sender, link
            self.outer[i].start(after)


def check_equal_models(first: ReplicaTensors, other: ReplicaTensors, rank: int) -> None:
    """LocalError naming the first tensor in which rank 0's model and another's differ."""
    for a, b in zip(first.lines(), other.lines(), strict=False):
        if a != b:
            raise LocalError(f"the models differ: rank 0 has {a}; rank {rank} has {b}")
    if len(first.lines()) != len(other.lines()):
        raise LocalError(
            f"the models differ: rank 0 has {len(first.lines())} tensors; rank {rank} has {len(other.lines())}"
        )
