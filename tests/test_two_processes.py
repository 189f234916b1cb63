"""Encoder and decoder in two processes, with nothing but frames between them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fewbits
from every_codec import CODECS, TREE, ends, fingerprint, stream
from fewbits.wire import BitWriter

ROUNDS = 20
HERE = Path(__file__).parent


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def test_the_other_process_has_the_same_values_and_the_same_state_after_twenty_rounds():
    sent, expected = [], []
    for codec in CODECS:
        sender, _ = ends(codec)
        sent.append(framed(repr(codec).encode()))
        for x in stream(ROUNDS):
            sent.append(framed(sender.send(x)))
            expected.append(fingerprint(sender.value).encode())
            sender.commit()
        sent.append(framed(b""))
        out = BitWriter()
        sender.codec.write_state(sender.state, TREE, out)
        expected.append(out.finish())
    source = str(Path(fewbits.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(HERE / "other_process.py")],
        input=b"".join(sent),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{HERE}", "PYTHONHASHSEED": "1"},
        check=True,
    )
    assert list(messages(done.stdout)) == expected
