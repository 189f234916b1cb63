"""What bytes cost the processor on their way through TCP."""

from __future__ import annotations

import socket
import threading
import time

MEASURED = 1 << 24  # bytes at most; longer ones are taken in proportion
TRIES = 3  # the median counts


def tcp_seconds(bytes_each_way: float) -> float:
    """Processor seconds to send and to receive so many bytes, from a connection of this machine with itself."""
    size = min(int(bytes_each_way), MEASURED)
    if not size:
        return 0.0
    return sorted(_once(size) for _ in range(TRIES))[TRIES // 2] * bytes_each_way / size


def _once(size: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as out:
        into, _ = server.accept()
        with into:
            data, found, at = bytearray(size), memoryview(bytearray(size)), 0
            thread = threading.Thread(target=out.sendall, args=(data,))
            began = time.process_time()
            thread.start()
            while at < size:
                at += into.recv_into(found[at:])
            thread.join()
            return time.process_time() - began
