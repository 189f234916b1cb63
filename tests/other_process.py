"""The receiving ends of many links, in a process of their own: frames in on stdin, digests and states out on stdout.

Messages are their length in four bytes, then themselves. Per link: the codec's repr, then frames, then an empty
message. Each frame is answered with the value's fingerprint, each link's end with the shared state.
"""

import sys

from every_codec import COMMON, TREE, fingerprint, payload_of
from fewbits import codecs, coders
from fewbits.links import Receiver


def read() -> bytes | None:
    """The next message, or None at the end."""
    head = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(int.from_bytes(head, "big")) if head else None


def write(message: bytes) -> None:
    """Answer."""
    sys.stdout.buffer.write(len(message).to_bytes(4, "big") + message)


def main() -> None:
    """Serve links until stdin ends."""
    names = {name: getattr(room, name) for room in (coders, codecs) for name in room.__all__}
    while (text := read()) is not None:
        receiver = Receiver(eval(text.decode(), names), TREE, COMMON)
        while frame := read():
            write(fingerprint(receiver.receive(frame)).encode())
        write(payload_of(receiver.dump()))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
