"""ClientChannel: what goes out sealed for each client, what comes in opened, and who is left out and why."""

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


@dataclass
class ClientReply:
    """One reply that looks usable."""

    reply: Message  # with plain records once it is opened
    client: int | None  # None: a plain client
    frame: bytes = b""
    arrays: str = ""  # the key of the ArrayRecord
    weight: float = 0.0
    signature: str = ""  # which records and metrics there are

    @property
    def who(self) -> int:
        """For counting: the client's number, or a negative one for a plain node."""
        return ~self.reply.metadata.src_node_id if self.client is None else self.client


class ClientChannel:
    """Between one server and its nodes."""

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
        self.roll = ClientRegistry(self.say)
        self._hello = Envelope("hello", 0, {"run": run, **identity})

    def say(self, sentence: str) -> None:
        """For the log and for `notes`; what a client wrote is cut short."""
        sentence = sentence if len(sentence) <= LONGEST else sentence[:LONGEST] + " ..."
        self.notes.append(sentence)
        log.warning("fewbits: %s", sentence)

    def addressed(
        self, kind: str, round: int, messages: list[Message], grid: Grid, timeout: float, only: set[int] | None = None
    ) -> list[Message]:
        """The messages to clients that take part (with `only`: those, and plain ones), by their numbers."""
        self.roll.meet(grid, messages, self._hello, timeout)
        found: dict[tuple[bool, int], Message] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            peer = self.roll.known.get(node)
            if peer is None:
                continue
            if peer.client is None:
                if not self.quarantine.resting(~node, round):
                    found[True, node] = message
            elif (only is None or peer.client in only) and not self.quarantine.resting(peer.client, round):
                found[False, peer.client] = self._sealed(kind, round, message, peer.client)
        return [found[place] for place in sorted(found)]

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

    def usable(self, kind: str, round: int, replies: Iterable[Message]) -> list[ClientReply]:
        """Compressed clients in the order of their numbers, then plain ones; the others are told of in sentences."""
        turns: list[ClientReply] = []
        seen: set[int] = set()
        for reply in replies:
            node = reply.metadata.src_node_id
            peer = self.roll.known.get(node)
            if peer is None:
                continue
            turn = ClientReply(reply, peer.client)
            try:
                if reply.has_error():
                    self.say(f"round {round}: nothing from {self.name(turn)}: {reply.error.reason}")
                elif peer.client is None or self._open(kind, round, turn):
                    if node in seen:
                        raise WireError("a second reply")
                    seen.add(node)
                    turn.weight = self._weight(reply.content)
                    turn.signature, turn.arrays = _signature(reply.content), turn.arrays or _array_key(reply.content)
                    turns.append(turn)
            except WireError as error:
                self.offend(turn, round, str(error))
        turns.sort(key=lambda turn: (turn.client is None, turn.client or 0, turn.reply.metadata.src_node_id))
        return self._alike(round, turns)

    def _open(self, kind: str, round: int, turn: ClientReply) -> bool:
        """Put the records that came with a frame into the reply; False when the client says that it has none."""
        assert turn.client is not None
        data = wire.value(turn.reply.content)
        if data is None:
            raise WireError("a plain reply from a client that spoke our method")
        asked = wire.opened(data, 8 * sum(spec.numel for _, spec in self.server.exchange.update))
        if asked.kind == "trouble":
            self.say(f"round {round}: nothing from {self.name(turn)}: {asked.text('text')}")
            if asked.fields.get("lost"):
                self.server.versions.pop(turn.client, None)
            return False
        if (asked.kind, asked.round) != (kind, round):
            raise WireError(f"expected a reply to {kind} of round {round}; got {asked.kind} of round {asked.round}")
        records = wire.restored(asked.fields.get("records"))
        if kind == "train":
            turn.frame, turn.arrays = asked.part(), asked.text("arrays")
        elif 1 <= (version := asked.number("version")) <= self.server.broadcast.version:
            self.server.versions[turn.client] = version
        turn.reply.content = RecordDict(dict(records))
        return True

    def _weight(self, content: RecordDict) -> float:
        """What a reply weighs; WireError when that is no finite number, 0 or more."""
        if self.weighted_by is None:
            return 0.0
        found = next(iter(content.metric_records.values()), {}).get(self.weighted_by)
        if isinstance(found, list) or found is None or not math.isfinite(found) or found < 0:
            raise WireError(f"{self.weighted_by} must be a finite number, 0 or more; got {found!r}")
        return float(found)

    def _alike(self, round: int, turns: list[ClientReply]) -> list[ClientReply]:
        """Those whose records are what most have: a stock strategy ends the run when one reply has other metrics."""
        if not turns:
            return []
        usual = Counter(turn.signature for turn in turns).most_common(1)[0][0]
        for turn in turns:
            if turn.signature != usual:
                self.offend(turn, round, f"its records are {turn.signature}, the others' {usual}")
        return [turn for turn in turns if turn.signature == usual]

    def offend(self, turn: ClientReply, round: int, why: str) -> None:
        """Say why a reply is left out, and count it."""
        self.say(f"round {round}: {self.name(turn)} is left out: {why} ({self.quarantine.offend(turn.who, round)})")

    def name(self, turn: ClientReply) -> str:
        """For a sentence."""
        node = turn.reply.metadata.src_node_id
        return f"plain node {node}" if turn.client is None else f"client {turn.client}"


def _signature(content: RecordDict) -> str:
    """Which metrics there are, and how long those are that are lists."""
    found = {
        name: {key: len(x) if isinstance(x, list) else 0 for key, x in sorted(record.items())}
        for name, record in content.metric_records.items()
    }
    return str(found)


def _array_key(content: RecordDict) -> str:
    return next(iter(content.array_records), "")
