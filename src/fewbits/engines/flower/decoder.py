"""Decoder: a client's arrays out of its reply, all of them checked before its link moves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from torch import Tensor

from fewbits.engines.flower import carried
from fewbits.engines.flower.client_channel import ClientChannel
from fewbits.engines.flower.clipping import clip_factor
from fewbits.engines.flower.layout import CARRIED
from fewbits.engines.flower.npy import dtype_of, numbers
from fewbits.engines.flower.replies import ClientReply, check_values
from fewbits.errors import LocalError, WireError
from fewbits.learn import shared_values
from fewbits.links import Entry, Receiver
from fewbits.links.ledger import stages
from fewbits.wire.frame import HEADER_BYTES

KINDS = {"f": "floats", "c": "complex"}


class Decoder:
    """Reads the replies of one run and counts those that are accepted."""

    def __init__(self, channel: ClientChannel) -> None:
        self.channel, self.server, self.layout = channel, channel.server, channel.layout

    def decoded(
        self, round: int, replies: list[ClientReply], sent: Mapping[str, np.ndarray]
    ) -> tuple[list[ClientReply], list[Message]]:
        """(the replies that hold arrays now, the others as errors); see `decode`."""
        good, left_out = [], []
        for reply in replies:
            try:
                self.decode(round, reply, sent)
                good.append(reply)
            except WireError as error:
                left_out.append(self.channel.offend(reply, round, str(error)))
        return good, left_out

    def decode(self, round: int, reply: ClientReply, sent: Mapping[str, np.ndarray]) -> None:
        """Put the client's arrays into the reply; `sent`: the arrays that travel as they are, as the server sent them.

        Raises:
            WireError: an array is not as the model has it, not finite, or too large; nothing has moved then.
        """
        if reply.custom:
            self._custom(round, reply)
        elif reply.client is None:
            values, rest = self._plain_arrays(reply)
            self._check_types(rest, sent)
            values, rest = self._clipped(reply, values, rest, sent)
            reply.values = self._checked(values, rest, sent)
        else:
            self._framed(round, reply, reply.client, sent)

    def _framed(self, round: int, reply: ClientReply, client: int, sent: Mapping[str, np.ndarray]) -> None:
        theta, found = self.server.flat.named(), {}
        rest = dict(sent)
        if reply.part:
            rest = self.layout.check_carried(carried.arrays(reply.part))
            self._check_types(rest, sent)

        def check(tree: dict[str, Tensor]) -> None:
            values = {self._name(wire): self._value(wire, x, theta) for wire, x in tree.items()}
            found.update(self._checked(*self._clipped(reply, values, rest, sent), sent))

        receiver, _ = self.server.read(client, reply.frame, check)
        self.count(round, reply, receiver)
        reply.values = found

    def _name(self, wire: str) -> str:
        return wire.removeprefix(shared_values.BUFFER)

    def _value(self, wire: str, x: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """A frame holds start - end, or the end itself where nothing may be lost."""
        exact = self.channel.values == "all" or (self.channel.values == "exact" and wire != self._name(wire))
        return x if exact else theta[self._name(wire)] - x

    def _clipped(
        self,
        reply: ClientReply,
        values: dict[str, Tensor],
        rest: dict[str, np.ndarray],
        sent: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        """Both kinds of arrays, moved no farther from the server's together than the client was told."""
        if reply.clip is None or self.channel.values == "all":  # nothing was added to what the client clipped
            return values, rest
        theta, floats = self.server.flat.named(), [n for n, x in rest.items() if x.dtype.kind in "fc"]
        moved = {n: x - theta[n] for n, x in values.items()}
        aside = {n: rest[n] - sent[n] for n in floats if np.isfinite(sent[n]).all()}
        check_values({n: x.numpy() for n, x in moved.items()} | aside, {})
        factor = clip_factor([*(x.numpy() for x in moved.values()), *aside.values()], reply.clip)
        if factor == 1.0:
            return values, rest
        return (
            {n: theta[n] + factor * x for n, x in moved.items()},
            rest | {n: (sent[n] + factor * x).astype(rest[n].dtype) for n, x in aside.items()},
        )

    def _checked(
        self, values: Mapping[str, Tensor], rest: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray]
    ) -> dict[str, Array]:
        """All arrays in the model's own types."""
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            cast = {e.name: values[e.name].numpy().astype(e.dtype) for e in self.layout.framed()}
        check_values(cast, {})
        check_values(rest, sent)
        return {e.name: Array((rest if e.kind == CARRIED else cast)[e.name]) for e in self.layout.entries}

    def _check_types(self, rest: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray]) -> None:
        first = {entry.name: entry.dtype for entry in self.layout.entries}
        for name, x in rest.items():
            if str(x.dtype) not in (first[name], str(sent[name].dtype)):
                raise WireError(f"{name} must be {first[name]}, as the run began with; got {x.dtype}")

    def _custom(self, round: int, reply: ClientReply) -> None:
        """Arrays of an answer to a message with arrays of its own."""
        assert reply.client is not None
        records = dict(reply.message.content.array_records)
        shapes, sent = _shapes(records), _shapes(self.channel.sent(reply.client))
        if self.channel.demands.stock and list(shapes.values()) != list(sent.values()):
            raise WireError(f"its arrays are not those that it was sent; got {ascii(shapes)[:200]}")
        for record in records.values():
            check_values({name: numbers(x.data) for name, x in record.items()}, {})
        self.channel.quarantine.behave(reply.client)
        self.channel.ledger.add(Entry(round, reply.client, "up", len(reply.part), len(reply.part)))
        if len(records) == 1:
            ((reply.arrays, record),) = records.items()
            reply.values = dict(record)

    def _plain_arrays(self, reply: ClientReply) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        """(arrays in frames, the others) of a client that speaks no method, once they are the model's."""
        if self.server.method.space is not None:
            raise WireError("in a run in subspaces every client needs the mod")
        try:
            found = reply.message.content.array_records[reply.arrays]
            return self.layout.tensors(found, "its reply"), self.layout.carried(found, "its reply")
        except (KeyError, LocalError) as error:
            raise WireError(str(error)) from None

    def plain_update(self, reply: ClientReply) -> dict[str, Tensor]:
        """start - end of a client that speaks no method, for a server that sums."""
        found, theta = self._plain_arrays(reply)[0], self.server.flat.named()
        check_values({name: x.numpy() for name, x in found.items()}, {})
        return {name: theta[name] - x for name, x in found.items()}

    def count(self, round: int, reply: ClientReply, receiver: Receiver) -> None:
        """A frame that counts, in the ledger."""
        assert reply.client is not None
        self.channel.quarantine.behave(reply.client)
        size, part, found = len(reply.frame), len(reply.part), stages(receiver.sections)
        found |= {"as they are": 8 * part} if part else {}
        self.channel.ledger.add(Entry(round, reply.client, "up", size + part, size + part - HEADER_BYTES, found))


def _shapes(records: Mapping[str, ArrayRecord]) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """The form of arrays, in which whole numbers and bools are one kind: a mean of both is of floats."""
    return {
        name: {key: (KINDS.get(dtype_of(x.dtype).kind, "whole"), tuple(x.shape)) for key, x in sorted(record.items())}
        for name, record in records.items()
    }
