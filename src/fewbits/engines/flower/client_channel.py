"""ClientChannel: seals messages to clients, opens their replies, and says which are left out and why."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp import Grid

from fewbits.engines.flower import carried, metric_functions
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_registry import ClientRegistry
from fewbits.engines.flower.clipping import clip_of
from fewbits.engines.flower.envelope import Envelope
from fewbits.engines.flower.fits import averaged_vectors
from fewbits.engines.flower.layout import Layout
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.replies import ClientReply, Demands
from fewbits.errors import LocalError, WireError
from fewbits.federated import Server
from fewbits.links import Entry, Ledger
from fewbits.links.bundle import unpack
from fewbits.wire.frame import HEADER_BYTES

log = logging.getLogger("flwr")
LONGEST = 600  # characters of a sentence


class Replies(NamedTuple):
    """What came of one request to the clients."""

    usable: list[ClientReply]
    failures: list[Message]  # replies that cannot be used, as errors


class ClientChannel:
    """The messages between one server and its nodes."""

    def __init__(
        self,
        server: Server,
        layout: Layout,
        run: str,
        identity: dict[str, str],
        ledger: Ledger,
        quarantine: Quarantine,
        demands: Demands,
        values: str = "none",
    ) -> None:
        """`identity`: what a client must have in common with us; `values`: see `envelope.FIELDS`."""
        self.server, self.layout, self.run, self.ledger, self.quarantine = server, layout, run, ledger, quarantine
        self.demands, self.values = demands, values
        self.model = ArrayRecord()  # the server's, with which the arrays in messages are compared
        self.part = b""  # of the model: the arrays that travel as they are
        self._holds: dict[int, str] = {}  # the digest of the part that each client holds
        self._custom: dict[int, dict[str, ArrayRecord]] = {}  # by client: arrays of messages that are not the model's
        self.notes: list[str] = []  # sentences about what went wrong and was survived
        self.plain = "allow"  # or "refuse": leave out nodes that do not speak fewbits
        self.plain_rounds: Counter[int] = Counter()  # by node: with plain arrays, which the ledger does not count
        self.refused_rounds: Counter[int] = Counter()  # by node: left out as plain
        self._clips: dict[int, float | None] = {}  # by node, in this round
        self.registry = ClientRegistry(self.say)
        self._hello = Envelope("hello", 0, {"run": run, **identity})
        if names := averaged_vectors(layout, server.flat):
            self.say(f"the mean of {', '.join(names)} stands for singular vectors, whose weight is in no one array")

    def say(self, sentence: str) -> None:
        """Write to the log and to `notes`; a long text from a client is cut."""
        sentence = sentence if len(sentence) <= LONGEST else sentence[:LONGEST] + " ..."
        self.notes.append(sentence)
        log.warning("fewbits: %s", sentence)

    def say_once(self, sentence: str) -> None:
        """As `say`, if it was not said before."""
        if sentence not in self.notes:
            self.say(sentence)

    def addressed(
        self, kind: str, round: int, messages: list[Message], grid: Grid, timeout: float, only: set[int] | None = None
    ) -> list[Message]:
        """The messages to the clients that take part, by their numbers; `only` these, and plain ones."""
        self.registry.meet(grid, messages, self._hello, timeout, round)
        self._clips = {message.metadata.dst_node_id: clip_of(message.content) for message in messages}
        self._custom.clear()
        alike: dict[int, bool] = {}  # whether a record of arrays is the model, by its address
        found: dict[tuple[bool, int], Message] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            registered = self.registry.known.get(node)
            if registered is None:
                continue
            if (registered.client is None, node if registered.client is None else registered.client) in found:
                raise LocalError(f"compress: the strategy writes to node {node} twice in round {round}; once is taken")
            if registered.client is None:
                if self._takes_plain(kind, node, round):
                    found[True, node] = message
            elif (only is None or registered.client in only) and not self.quarantine.resting(registered.client, round):
                found[False, registered.client] = self._sealed(kind, round, message, registered.client, alike)
        return [found[place] for place in sorted(found)]

    def _takes_plain(self, kind: str, node: int, round: int) -> bool:
        """Whether a node may take part with plain arrays; count it."""
        if self.quarantine.resting(~node, round):
            return False
        counts = self.refused_rounds if self.plain == "refuse" else self.plain_rounds
        counts[node] += kind == "train"
        return self.plain != "refuse"

    def _sealed(self, kind: str, round: int, message: Message, client: int, alike: dict[int, bool]) -> Message:
        """The same message with a bundle in place of the server's model; other arrays travel as they are."""
        records = message.content.array_records
        fields = {"run": self.run, "records": wire.described(message.content)}
        if len(records) != 1 or not self._is_model(next(iter(records.values())), alike):
            return self._sealed_custom(kind, round, message, client, fields)
        bundle = self.server.bundle(client)
        new = client not in self.server.versions
        payload = sum(len(frame) - HEADER_BYTES for frame in unpack(bundle)) if bundle[0] else 0
        digest = carried.digest(self.part) if self.part else ""
        part = b"" if self._holds.get(client, "") == digest and not new else self.part
        self.ledger.add(Entry(round, client, "down", len(bundle) + len(part), payload + len(part)))
        fields |= {"arrays": next(iter(records))}
        fields |= {
            name: text for name, text in (("values", self.values), ("carried", digest)) if text not in ("", "none")
        }
        parts = (bundle, self.layout.dump() if new else b"", part)
        message.content = Envelope(kind, round, fields, parts if part else parts[: 1 + new]).seal()
        return message

    def _is_model(self, arrays: ArrayRecord, alike: dict[int, bool]) -> bool:
        if id(arrays) not in alike:
            same = list(arrays) == list(self.model)
            alike[id(arrays)] = same and all(x is y or x.data == y.data for x, y in _pairs(arrays, self.model))
        return alike[id(arrays)]

    def _sealed_custom(
        self, kind: str, round: int, message: Message, client: int, fields: dict[str, object]
    ) -> Message:
        records = dict(message.content.array_records)
        part = carried.dump(records, f"compress: the message to client {client}")
        self.say_once(
            f"the strategy's messages to {kind} have arrays that are not the model's; they go as they are, both ways"
        )
        self._custom[client] = records
        self.ledger.add(Entry(round, client, "down", len(part), len(part)))
        message.content = Envelope(kind, round, fields | {"custom": True}, (part,)).seal()
        return message

    def usable(self, kind: str, round: int, messages: Iterable[Message]) -> Replies:
        """Replies of compressed clients in the order of their numbers, then plain ones; a sentence about each other."""
        usable: list[ClientReply] = []
        failures: list[Message] = []
        seen: set[int] = set()
        for message in messages:
            node = message.metadata.src_node_id
            registered = self.registry.known.get(node)
            if registered is None:
                continue
            reply = ClientReply(message, registered.client, clip=self._clips.get(node))
            if node in seen:
                self.offend(reply, round, "a second reply")
                continue
            try:
                if message.has_error():
                    raise NoReplyError(message.error.reason)
                if reply.client is not None:
                    self._open(kind, round, reply)
                self.demands.read(reply, kind)
                seen.add(node)
                usable.append(reply)
            except NoReplyError as error:
                self.say(f"round {round}: nothing from {reply.name}: {error}")
                failures.append(message if message.has_error() else reply.failure(str(error)))
            except WireError as error:
                failures.append(self.offend(reply, round, str(error)))
        for reply, why in self.demands.heavy(usable):
            usable.remove(reply)
            failures.append(self.offend(reply, round, why))
        usable.sort(key=lambda reply: (reply.client is None, reply.client or 0, reply.message.metadata.src_node_id))
        return Replies(usable, failures)

    def _open(self, kind: str, round: int, reply: ClientReply) -> None:
        """Put the records that came with a frame into the reply."""
        assert reply.client is not None
        data = wire.value(reply.message.content)
        if data is None:
            raise WireError("a plain reply from a client that spoke our method")
        found = wire.opened(data, 2 * self._size() + 8 * sum(spec.numel for _, spec in self.server.exchange.update))
        if found.kind == "trouble":
            if found.fields.get("lost"):
                self.forget(reply.client)
            raise NoReplyError(found.text("text"))
        if (found.kind, found.round) != (kind, round):
            raise WireError(f"expected a reply to {kind} of round {round}; got {found.kind} of round {found.round}")
        reply.custom = reply.client in self._custom
        if bool(found.fields.get("custom")) != reply.custom:
            raise WireError("its arrays are not of the form that the message had")
        arrays: Mapping[str, ArrayRecord] = {}
        if reply.custom or (kind == "evaluate" and found.parts):
            reply.part = found.part()
            arrays = carried.load(reply.part)
        elif kind == "train":
            reply.frame, reply.arrays = found.part(), found.text("arrays")
            reply.part = found.parts[1] if len(found.parts) > 1 else b""
        content = wire.together(arrays, found)
        if not reply.custom:
            self._holds[reply.client] = found.fields.get("carried", "")
            if kind == "evaluate" and 1 <= (version := found.number("version")) <= self.server.broadcast.version:
                self.server.versions[reply.client] = version
        reply.message.content = content

    def _size(self) -> int:
        """Bytes of the arrays that travel as they are."""
        records = [record for found in self._custom.values() for record in found.values()]
        return len(self.part) + sum(len(x.data) for record in records for x in record.values())

    def sent(self, client: int) -> dict[str, ArrayRecord]:
        """The arrays of the message to a client that had its own."""
        return self._custom[client]

    def forget(self, client: int) -> None:
        """A client lost its state: its next bundle holds all."""
        self.server.versions.pop(client, None)
        self._holds.pop(client, None)

    def too_few(self, round: int, usable: list[ClientReply], quorum: int) -> str:
        """Why the model stays as it is; empty when it does not."""
        short = f"{len(usable)} usable replies, quorum {quorum}" if len(usable) < quorum else ""
        if not short and self.demands.weightless(usable):
            short = "all replies weigh 0"
        if short:
            self.say(f"round {round}: {short}; the model stays")
        return short

    def metrics(self, name: str, round: int, most: list[Message]) -> AbstractContextManager[None]:
        """While the strategy aggregates: its function of that name costs no more than the metrics of the round."""
        say = lambda sentence: self.say(f"round {round}: {sentence}")  # noqa: E731
        return metric_functions.in_place(self.demands.strategy, name, most, say)

    def offend(self, reply: ClientReply, round: int, why: str) -> Message:
        """Say why a reply is left out, and count it; the reply as an error."""
        self.say(f"round {round}: {reply.name} is left out: {why} ({self.quarantine.offend(reply.who, round)})")
        return reply.failure(why)


class NoReplyError(Exception):
    """An honest client has no reply: its app, its method or its state failed, and says why."""


def _pairs(a: ArrayRecord, b: ArrayRecord) -> zip[tuple[Array, Array]]:
    return zip(a.values(), b.values(), strict=True)
