"""Tap: a proxy that counts what a SuperNode's connections carry, request by request.

Flower 1.41 speaks protobuf in HTTP/1.1 in TLS. From outside of TLS a poll looks like a message. So a `Tap` has the
SuperLink's certificate, ends TLS, reads request lines and lengths, and opens TLS again towards the SuperLink. It counts
the bytes on the SuperNode's socket: records, handshakes, tickets and goodbyes included.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PULL, HEARTBEAT = "pull-messages", "send-node-heartbeat"
REQUEST = re.compile(rb"[A-Z]+ [^ ]*/([a-z-]+) HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass
class Exchange:
    """A request and its answer, with what it cost to open the connection when it was opened for this request."""

    path: str  # the last part of the request's path: pull-messages, push-object, ...
    began: float  # time.monotonic()
    opening: tuple[int, int] = (0, 0)  # bytes up and down of a handshake, where there was one
    up: int = 0  # bytes on the SuperNode's socket, `opening` among them
    down: int = 0
    body: int = 0  # bytes of the answer's body, as its head tells
    head: bytes = field(default=b"", repr=False)  # of the answer, as far as it has come

    @classmethod
    def of(cls, request: bytes, opening: tuple[int, int]) -> Exchange:
        """The exchange that begins with these plain bytes."""
        found = REQUEST.match(request)
        return cls(found[1].decode() if found else "unknown", time.monotonic(), opening)

    @property
    def idle(self) -> bool:
        """Whether no message was the reason for it: a poll that brought nothing, or a heartbeat."""
        return self.path == HEARTBEAT or (self.path == PULL and not self.body)

    def answer(self, data: bytes) -> None:
        """Take plain bytes of the answer."""
        if not self.body:
            self.head += data
            found = LENGTH.search(self.head)
            self.body = int(found[1]) if found else 0


class End:
    """One end of TLS, on a socket whose bytes are counted in `came` and `went`."""

    def __init__(self, link: socket.socket, context: ssl.SSLContext, server: bool) -> None:
        self.link, self.came, self.went = link, 0, 0
        self._inward, self._outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "localhost"
        self._tls = context.wrap_bio(self._inward, self._outward, server_side=server, server_hostname=name)
        while not self._greeted():
            self.feed()
        self.opening = self.came - self._inward.pending, self.went  # bytes that the handshake took, each way

    def _greeted(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def feed(self) -> None:
        """Take what the socket has; OSError when it ended without a goodbye."""
        data = self.link.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the other end is gone")
        self.came += len(data)
        self._inward.write(data)

    def read(self) -> list[bytes]:
        """The plain bytes that have come, a piece per record, so that they can go on as they came; b"": goodbye."""
        found = list[bytes]()
        with suppress(ssl.SSLWantReadError):
            while data := self._tls.read(1 << 16):
                found.append(data)
            found.append(b"")
        return found

    def write(self, data: bytes) -> None:
        """Send plain bytes."""
        self._tls.write(data)
        self._flush()

    def leave(self) -> None:
        """Say goodbye."""
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        data = self._outward.read()
        self.went += len(data)
        self.link.sendall(data)


@dataclass
class Talk:
    """One connection: requests and answers in turn, as HTTP/1.1 has it."""

    near: End  # the SuperNode's
    far: End  # the SuperLink's
    account: list[Exchange]
    now: Exchange | None = None
    answered: bool = True

    def carry(self, end: End, data: bytes) -> bool:
        """Pass on what came from an end, and enter its bytes; False when the end said goodbye."""
        if data and end is self.near and self.answered:
            self.now = Exchange.of(data, self.near.opening if self.now is None else (0, 0))
            self.account.append(self.now)
            self.answered = False
        elif data and end is self.far and self.now is not None:
            self.now.answer(data)
            self.answered = True
        if data:
            (self.far if end is self.near else self.near).write(data)
        else:
            self.near.leave()
            self.far.leave()
        if self.now is not None:
            self.now.up, self.now.down = self.now.up + self.near.came, self.now.down + self.near.went
            self.near.came = self.near.went = 0
        return bool(data)


class Tap:
    """Passes one SuperNode's connections on to a SuperLink, and keeps account of every exchange."""

    def __init__(self, port: int, certificate: Path, key: Path, ca: Path) -> None:
        """`port`: the SuperLink's on loopback; then its certificate, its key, and its authority's certificate."""
        self._target, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(certificate, key)
        self._client = ssl.create_default_context(cafile=ca)
        self.port, self.exchanges = self._listener.getsockname()[1], list[Exchange]()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while self._open:
            try:
                node, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(node,), daemon=True).start()

    def _pass(self, node: socket.socket) -> None:
        with suppress(OSError), node, socket.create_connection(("127.0.0.1", self._target)) as link:
            self._talk(End(node, self._server, server=True), End(link, self._client, server=False))

    def _talk(self, near: End, far: End) -> None:
        """One request after another, as HTTP/1.1 has it, until either end leaves."""
        ends, talk = {near.link: near, far.link: far}, Talk(near, far, self.exchanges)
        ready = [near]  # a request may have come with the last bytes of the handshake
        while self._open and all(talk.carry(end, data) for end in ready for data in end.read()):
            ready = [ends[link] for link in select.select(list(ends), [], [], 1.0)[0]]
            for end in ready:
                end.feed()

    def taken(self) -> list[Exchange]:
        """The exchanges since this was last called; nothing but polls may be under way."""
        found = list(self.exchanges)
        del self.exchanges[: len(found)]
        return found

    def close(self) -> None:
        """Stop listening; open connections end within a second."""
        self._open = False
        self._listener.close()
