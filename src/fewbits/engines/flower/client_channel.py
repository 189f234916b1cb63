"""ClientChannel: seals messages to clients, opens their replies, and says which are left out and why."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_registry import ClientRegistry
from fewbits.engines.flower.clipping import clip_of
from fewbits.engines.flower.envelope import Envelope
from fewbits.engines.flower.layout import Layout
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.errors import LocalError, WireError
from fewbits.federated import Server
from fewbits.links import Entry, Ledger
from fewbits.links.bundle import unpack
from fewbits.wire.frame import HEADER_BYTES

log = logging.getLogger("flwr")
LONGEST = 600  # characters of a sentence
GOODBYE = 60.0  # seconds at most for clients to remove their state at the end


@dataclass
class ClientReply:
    """One reply, as far as its form was read."""

    message: Message  # with plain records once it is opened
    client: int | None  # None: a plain client
    frame: bytes = b""
    arrays: str = ""  # the key of the ArrayRecord
    weight: float = 0.0
    signature: str = ""  # which records and metrics there are
    clip: float | None = None  # the norm that its update may have, where the client was told one

    @property
    def who(self) -> int:
        """For counting: the client's number, or a negative one for a plain node."""
        return ~self.message.metadata.src_node_id if self.client is None else self.client


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
        weighted_by: str | None,
    ) -> None:
        """`identity`: what a client must have in common with us; `weighted_by`: the metric that replies weigh."""
        self.server, self.layout, self.run, self.ledger, self.quarantine = server, layout, run, ledger, quarantine
        self.weighted_by = weighted_by
        self.notes: list[str] = []  # sentences about what went wrong and was survived
        self.plain = "allow"  # or "refuse": leave out nodes that do not speak fewbits
        self.plain_rounds: Counter[int] = (
            Counter()
        )  # by node: rounds with plain arrays, which the ledger does not count
        self.refused_rounds: Counter[int] = Counter()  # by node: rounds that it was left out of as plain
        self._clips: dict[int, float | None] = {}  # by node, in this round
        self.registry = ClientRegistry(self.say)
        self._hello = Envelope("hello", 0, {"run": run, **identity})

    def say(self, sentence: str) -> None:
        """Write to the log and to `notes`; a long text from a client is cut."""
        sentence = sentence if len(sentence) <= LONGEST else sentence[:LONGEST] + " ..."
        self.notes.append(sentence)
        log.warning("fewbits: %s", sentence)

    def addressed(
        self, kind: str, round: int, messages: list[Message], grid: Grid, timeout: float, only: set[int] | None = None
    ) -> list[Message]:
        """The messages to the clients that take part, by their numbers; `only` these, and plain ones."""
        self.registry.meet(grid, messages, self._hello, timeout, round)
        self._clips = {message.metadata.dst_node_id: clip_of(message.content) for message in messages}
        found: dict[tuple[bool, int], Message] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            registered = self.registry.known.get(node)
            if registered is None:
                continue
            if registered.client is None:
                if self._takes_plain(kind, node) and not self.quarantine.resting(~node, round):
                    found[True, node] = message
            elif (only is None or registered.client in only) and not self.quarantine.resting(registered.client, round):
                found[False, registered.client] = self._sealed(kind, round, message, registered.client)
        return [found[place] for place in sorted(found)]

    def _takes_plain(self, kind: str, node: int) -> bool:
        """Whether a node may take part with plain arrays; count it."""
        counts = self.refused_rounds if self.plain == "refuse" else self.plain_rounds
        counts[node] += kind == "train"
        return self.plain != "refuse"

    def _sealed(self, kind: str, round: int, message: Message, client: int) -> Message:
        """The same message with a bundle in place of its arrays."""
        names = list(message.content.array_records)
        if len(names) != 1:
            raise LocalError(f"compress: the strategy's messages need one ArrayRecord; got {len(names)}: {names}")
        fields = {"run": self.run, "arrays": names[0], "records": wire.described(message.content)}
        bundle = self.server.bundle(client)
        new = client not in self.server.versions
        payload = sum(len(frame) - HEADER_BYTES for frame in unpack(bundle)) if bundle[0] else 0
        self.ledger.add(Entry(round, client, "down", len(bundle), payload))
        message.content = Envelope(kind, round, fields, (bundle, *([self.layout.dump()] if new else []))).seal()
        return message

    def usable(self, kind: str, round: int, messages: Iterable[Message]) -> list[ClientReply]:
        """Replies of compressed clients in the order of their numbers, then plain ones; a sentence about each other."""
        usable: list[ClientReply] = []
        seen: set[int] = set()
        for message in messages:
            node = message.metadata.src_node_id
            registered = self.registry.known.get(node)
            if registered is None:
                continue
            reply = ClientReply(message, registered.client, clip=self._clips.get(node))
            try:
                if message.has_error():
                    self.say(f"round {round}: nothing from {self.name(reply)}: {message.error.reason}")
                elif reply.client is None or self._open(kind, round, reply):
                    if node in seen:
                        raise WireError("a second reply")
                    seen.add(node)
                    self._read(reply)
                    usable.append(reply)
            except WireError as error:
                self.offend(reply, round, str(error))
        usable.sort(key=lambda reply: (reply.client is None, reply.client or 0, reply.message.metadata.src_node_id))
        return self._alike(round, usable)

    def _read(self, reply: ClientReply) -> None:
        """Its weight, its metrics' names and the name of its arrays."""
        content = reply.message.content
        reply.weight, reply.signature = self._weight(content), _signature(content)
        reply.arrays = reply.arrays or next(iter(content.array_records), "")

    def _open(self, kind: str, round: int, reply: ClientReply) -> bool:
        """Put the records that came with a frame into the reply; False when the client says that it has none."""
        assert reply.client is not None
        data = wire.value(reply.message.content)
        if data is None:
            raise WireError("a plain reply from a client that spoke our method")
        found = wire.opened(data, 8 * sum(spec.numel for _, spec in self.server.exchange.update))
        if found.kind == "trouble":
            self.say(f"round {round}: nothing from {self.name(reply)}: {found.text('text')}")
            if found.fields.get("lost"):
                self.server.versions.pop(reply.client, None)
            return False
        if (found.kind, found.round) != (kind, round):
            raise WireError(f"expected a reply to {kind} of round {round}; got {found.kind} of round {found.round}")
        records = wire.restored(found.fields.get("records"))
        if kind == "train":
            reply.frame, reply.arrays = found.part(), found.text("arrays")
        elif 1 <= (version := found.number("version")) <= self.server.broadcast.version:
            self.server.versions[reply.client] = version
        reply.message.content = RecordDict(dict(records))
        return True

    def _weight(self, content: RecordDict) -> float:
        """What a reply weighs; WireError when that is no finite number, 0 or more."""
        if self.weighted_by is None:
            return 0.0
        found = next(iter(content.metric_records.values()), {}).get(self.weighted_by)
        if isinstance(found, list) or found is None or not math.isfinite(found) or found < 0:
            raise WireError(f"{self.weighted_by} must be a finite number, 0 or more; got {found!r}")
        return float(found)

    def _alike(self, round: int, replies: list[ClientReply]) -> list[ClientReply]:
        """Those whose records are what most have: a stock strategy ends the run when one reply has other metrics."""
        if not replies:
            return []
        usual = Counter(reply.signature for reply in replies).most_common(1)[0][0]
        for reply in replies:
            if reply.signature != usual:
                self.offend(reply, round, f"its records are {reply.signature}, the others' {usual}")
        return [reply for reply in replies if reply.signature == usual]

    def offend(self, reply: ClientReply, round: int, why: str) -> None:
        """Say why a reply is left out, and count it."""
        self.say(f"round {round}: {self.name(reply)} is left out: {why} ({self.quarantine.offend(reply.who, round)})")

    def farewell(self, grid: Grid, timeout: float, resumable: bool) -> None:
        """Have clients remove what they stored in folders that nobody named, unless the run is resumable."""
        plain, refused = "sent plain arrays", "got nothing, by plain='refuse'"
        for what, counts in ((plain, self.plain_rounds), (refused, self.refused_rounds)):
            if counts.total():
                nodes = "1 node" if len(counts) == 1 else f"{len(counts)} nodes"
                self.say(f"{nodes} {what}, {counts.total()} times in all; the ledger has no bytes of theirs")
        if resumable:
            log.info("fewbits: clients keep their state, so that this run can go on")
            return
        leaving = self.registry.leaving()
        for each in leaving.values():
            if each.client is not None:
                self.server.versions.pop(each.client, None)
        asks = [
            Message(
                Envelope("goodbye", 0, {"run": self.run, "state": each.state}).seal(), node, self.registry.types[node]
            )
            for node, each in leaving.items()
        ]
        if not asks:
            return
        try:
            self._removed(len(asks), grid.send_and_receive(asks, timeout=min(timeout, GOODBYE)))
        except Exception as error:  # noqa: BLE001  the run's result is complete, whatever becomes of Flower's grid
            log.warning("fewbits: %d clients may still have the state of this run: %s", len(asks), error)

    def _removed(self, asked: int, replies: Iterable[Message]) -> None:
        """Log how much the clients have removed, and say who did not answer."""
        done, size = 0, 0
        for reply in replies:
            data = wire.value(reply.content) if reply.has_content() else None
            try:
                found = wire.opened(data, 0) if data is not None else Envelope("nothing")
                size += found.number("bytes")
                done += 1
            except WireError:
                continue
        log.info("fewbits: %d of %d clients removed the state of this run, %s bytes", done, asked, f"{size:,}")

    def name(self, reply: ClientReply) -> str:
        """For a sentence."""
        node = reply.message.metadata.src_node_id
        return f"plain node {node}" if reply.client is None else f"client {reply.client}"


def _signature(content: RecordDict) -> str:
    """Which metrics there are, and how long those are that are lists."""
    found = {
        name: {key: len(x) if isinstance(x, list) else 0 for key, x in sorted(record.items())}
        for name, record in content.metric_records.items()
    }
    return str(found)
