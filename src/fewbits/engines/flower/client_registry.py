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


@dataclass(frozen=True)
class RegisteredClient:
    """The client behind a node."""

    client: int | None  # None: an app without our mod, which gets and sends plain arrays
    state: str = ""  # the name of its state folder: a node that comes back under another number has the same


class ClientRegistry:
    """All nodes that have answered a hello."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` takes sentences about nodes that cannot take part."""
        self.known: dict[int, RegisteredClient] = {}
        self._say = say

    def meet(self, grid: Grid, messages: Iterable[Message], hello: Envelope, timeout: float) -> None:
        """Send a hello to every receiver that is not known yet, in a message of the same type.

        The mod answers it without the app. An app without the mod raises, and is plain from then on. A node that does
        not answer is asked again next time.
        """
        types = {m.metadata.dst_node_id: m.metadata.message_type for m in messages}
        asks = [Message(hello.seal(), node, kind) for node, kind in types.items() if node not in self.known]
        if not asks:
            return
        replies = sorted(grid.send_and_receive(asks, timeout=timeout), key=lambda reply: reply.metadata.src_node_id)
        here = set(grid.get_node_ids())
        for reply in replies:
            node = reply.metadata.src_node_id
            data = wire.value(reply.content) if reply.has_content() else None
            if data is None:
                if reply.has_content() or reply.error.code == RAISED:
                    self.known[node] = RegisteredClient(None)
                continue
            try:
                self._enter(node, wire.opened(data, 0), here)
            except WireError as error:
                self._say(f"node {node} is left out: {error}")

    def _enter(self, node: int, answer: Envelope, here: set[int]) -> None:
        if answer.kind == "trouble":
            raise WireError(answer.text("text"))
        found = RegisteredClient(answer.number("client"), answer.text("state"))
        twin = next((n for n, p in self.known.items() if p.client == found.client), None)
        if twin is not None and twin in here and self.known[twin].state != found.state:
            raise WireError(f"node {twin} has partition id {found.client}, too; every node needs one of its own")
        if twin is not None:
            del self.known[twin]
        self.known[node] = found
