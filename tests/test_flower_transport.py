"""The account of a SuperNode's bytes: a tap in front of any server over TLS, and the table that is made of it."""

import socket
import ssl
import threading
from contextlib import contextmanager
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import loopback
import tap
import transport
from fewbits.links.ledger import Entry

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "flower.md"
POLL = "/v1/fleet/pull-messages"


class Sized(BaseHTTPRequestHandler):
    """Answers with as many bytes as the request's body has."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@contextmanager
def server_over_tls(files):
    certificate, key, _ = files
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sized)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Counter(threading.Thread):
    """Passes one connection on to `port`, and counts its bytes without knowing what they are."""

    def __init__(self, port):
        super().__init__()
        self.listener, self.target = socket.create_server(("127.0.0.1", 0)), port
        self.port, self.counts = self.listener.getsockname()[1], [0, 0]

    def run(self):
        near, _ = self.listener.accept()
        with self.listener, near, socket.create_connection(("127.0.0.1", self.target)) as far:
            back = threading.Thread(target=self.copy, args=(far, near, 1))
            back.start()
            self.copy(near, far, 0)
            back.join()

    def copy(self, source, sink, way):
        while data := source.recv(1000):
            self.counts[way] += len(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def files(tmp_path):
    return loopback.make_certificates(tmp_path)


def asked(port, authority, sizes, goodbye):
    """A connection on which polls of these sizes are asked; what a dumb counter in front of `port` has seen of it."""
    counter = Counter(port)
    counter.start()
    link = HTTPSConnection("localhost", counter.port, context=ssl.create_default_context(cafile=authority))
    for size in sizes:
        link.request("POST", POLL, bytes(size))
        assert len(link.getresponse().read()) == size
    (link.sock.unwrap() if goodbye else link.sock).close()
    link.close()
    counter.join()
    return counter.counts


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_taps_exchanges_hold_every_byte_of_the_socket_and_a_handshake_per_connection(files, goodbye):
    sizes = [0, 5, 300_000, 0]
    with server_over_tls(files) as port:
        proxy = tap.Tap(port, *files)
        seen = [asked(proxy.port, files[2], sizes, goodbye) for _ in range(2)]
        proxy.close()
    found = proxy.taken()
    assert [each.path for each in found] == ["pull-messages"] * 8
    assert [each.body for each in found] == sizes * 2
    assert [each.idle for each in found] == [size == 0 for size in sizes] * 2
    assert [bool(each.opening[0]) for each in found] == [True, False, False, False] * 2
    assert [sum(each.up for each in found), sum(each.down for each in found)] == [a + b for a, b in zip(*seen)]
    assert all(each.up > size and each.down > size for each, size in zip(found, sizes * 2))
    assert proxy.taken() == []


def run_of(messages):
    """A client's exchanges: two polls before each of its messages, a push with a handshake after it."""
    found = []
    for number in range(messages):
        for second in (0, 3):
            found.append(tap.Exchange("pull-messages", 10 * number + second, (0, 0), 100, 10, 0))
        found.append(tap.Exchange("pull-messages", 10 * number + 6, (0, 0), 101, 60, 50))
        found.append(tap.Exchange("send-node-heartbeat", 10 * number + 7, (0, 0), 90, 9, 2))
        found.append(tap.Exchange("push-messages", 10 * number + 8, (500, 700), 1000 + 500, 200 + 700, 0))
    return found


def test_polls_and_heartbeats_are_no_part_of_a_message_nor_do_the_first_two_messages_count():
    entries = [
        Entry(round, client, way, size * round, size * round - 1)
        for round in (1, 2, 3)
        for client in (0, 1)
        for way, size in (("up", 40), ("down", 20))
    ]
    taps = [run_of(4), run_of(4)]
    up, down = transport.price(taps, entries, "up"), transport.price(taps, entries, "down")
    assert up.requests == (1101 - 80, 1101 - 120) * 2 and up.opening == (500,) * 4
    assert down.requests == (260 - 40, 260 - 60) * 2 and down.opening == (700,) * 4
    assert up.overhead == (1521, 1481) * 2
    assert (up.idle, down.idle, up.seconds) == (2 * 100 + 90, 2 * 10 + 9, 10)


def test_what_is_written_to_a_page_is_what_is_read_from_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{transport.BEGIN} old -->\n\nold\n\n{transport.END}\n\nafter\n")
    entries = [Entry(round, 0, way, 1040, 1024) for round in (1, 2, 3) for way in ("up", "down")]
    lines = [*transport.HEAD, *transport.rows("x", [run_of(4)], entries)]
    for _ in range(2):
        transport.write(page, lines)
    assert page.read_text() == f"before\n\n{transport.NOTE}\n\n" + "\n".join(lines) + f"\n\n{transport.END}\n\nafter\n"
    assert transport.documented(page) == {"x, up": [1024, 1040, 61, 500, 561], "x, down": [1024, 1040, -780, 700, -80]}
