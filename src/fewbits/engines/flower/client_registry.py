"""ClientRegistry: which node is which client. Node numbers are random and change; a client is its partition id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import WireError

RAISED = 2  # Flower's error code of an app that raised an exception
FIRST = "is fewbits.flower.mod first in its list of mods?"


@dataclass(frozen=True)
class RegisteredClient:
    """The client behind a node."""

    client: int | None  # None: an app without our mod, which gets and sends plain arrays
    state: str = ""  # the name of its state folder: a node that comes back under another number has the same
    temporary: bool = False  # whether nobody named that folder, so that it goes when the run ends


class ClientRegistry:
    """All nodes that have answered a hello."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` takes sentences about nodes that cannot take part, or only with plain arrays."""
        self.known: dict[int, RegisteredClient] = {}
        self.types: dict[int, str] = {}  # the type of the last message to each node
        self._say = say
        self._said: dict[int, str] = {}  # what was said last about a node
        self._asked: dict[int, int] = {}  # the round in which a node was asked last

    def meet(self, grid: Grid, messages: Iterable[Message], hello: Envelope, timeout: float, round: int = 0) -> None:
        """Send a hello to every receiver that is not known as a compressed client, in a message of the same type.

        The mod answers it without the app. An app without the mod raises, and is plain in this round. It is asked again
        in the next one, because a mod or a machine may fail once. A node that does not answer is asked again, too.
        """
        types = {m.metadata.dst_node_id: m.metadata.message_type for m in messages}
        self.types |= types
        asks = [Message(hello.seal(), node, kind) for node, kind in types.items() if self._unsure(node, round)]
        if not asks:
            return
        self._asked |= {ask.metadata.dst_node_id: round for ask in asks}
        replies = sorted(grid.send_and_receive(asks, timeout=timeout), key=lambda reply: reply.metadata.src_node_id)
        here = set(grid.get_node_ids())
        for reply in replies:
            node = reply.metadata.src_node_id
            data = wire.value(reply.content) if reply.has_content() else None
            if data is None:
                self._without(node, reply)
                continue
            try:
                self._enter(node, wire.opened(data, 0), here)
            except WireError as error:
                self.known.pop(node, None)
                self._once(node, f"node {node} is left out: {error}")

    def _unsure(self, node: int, round: int) -> bool:
        """Whether a node is not known, or plain and not yet asked in this round."""
        found = self.known.get(node)
        return found is None or (found.client is None and self._asked.get(node) != round)

    def _without(self, node: int, reply: Message) -> None:
        """A reply that is no hello: the app raised or answered in the mod's place, or Flower says what went wrong."""
        if reply.has_content() or reply.error.code == RAISED:
            self.known[node] = RegisteredClient(None)
            why = "its app answered" if reply.has_content() else f"it raised: {reply.error.reason}"
            self._once(node, f"node {node} does not speak fewbits; {FIRST} On a hello {why}", "plain")
        else:
            why = f"on a hello Flower reports: {reply.error.reason}; {FIRST}"
            self._once(node, f"node {node} is left out: {why}")

    def _once(self, node: int, sentence: str, topic: str = "") -> None:
        """Say a sentence, unless it (or one on the same topic) was the last about this node."""
        if self._said.get(node) != (topic or sentence):
            self._said[node] = topic or sentence
            self._say(sentence)

    def _enter(self, node: int, answer: Envelope, here: set[int]) -> None:
        if answer.kind == "trouble":
            raise WireError(answer.text("text"))
        temporary = answer.fields.get("temporary") is True
        found = RegisteredClient(answer.number("client"), answer.text("state"), temporary)
        twin = next((n for n, p in self.known.items() if p.client == found.client), None)
        if twin is not None and twin in here and self.known[twin].state != found.state:
            raise WireError(f"node {twin} has partition id {found.client}, too; every node needs one of its own")
        if twin is not None:
            del self.known[twin]
        self.known[node] = found
        self._said.pop(node, None)

    def leaving(self) -> dict[int, RegisteredClient]:
        """The nodes whose state goes when the run ends; they are unknown from then on."""
        found = {node: each for node, each in self.known.items() if each.temporary}
        for node in found:
            del self.known[node]
        return found
