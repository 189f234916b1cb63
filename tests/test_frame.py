"""The frame: every bit of its header stands where the documentation says, and no damaged frame passes."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewbits.errors import LocalError, WireError
from fewbits.wire import Frame, Header
from fewbits.wire.frame import HEADER_BYTES, MAGIC, MAX_SEQUENCE, VERSION

# As docs/wire-format.md has it: (name, bits), from the first bit of the frame on, most significant first.
LAYOUT = [
    ("magic", 8),
    ("version", 4),
    ("key", 1),
    ("snapshot", 1),
    ("zero", 2),
    ("codec", 16),
    ("sequence", 24),
    ("ack", 16),
    ("history", 24),
    ("checksum", 32),
]
WIDTH = dict(LAYOUT)
FIELDS = ["codec", "sequence", "ack", "history", "key", "snapshot"]

# Golden frames of wire version 1: they must be written and read like this for ever.
GOLDEN = [
    ("fb10c0de0102030405a1b2c3579d8138", Frame(Header(0xC0DE, 0x010203, 0xA1B2C3, 0x0405), b"")),
    (
        "fb18c0de0102030405a1b2c3839433a166657762697473",
        Frame(Header(0xC0DE, 0x010203, 0xA1B2C3, 0x0405, key=True), b"fewbits"),
    ),
    ("fb1400000000000000000000c74e69630001020304050607", Frame(Header(0, 0, 0, snapshot=True), bytes(range(8)))),
    (
        "fb1cffffffffffffffffffff91268c6900000000",
        Frame(Header(0xFFFF, MAX_SEQUENCE, 0xFFFFFF, 0xFFFF, key=True, snapshot=True), bytes(4)),
    ),
]
FRAMES = [frame for _, frame in GOLDEN]


def fields(data):
    """The header's fields, cut from a string of 0 and 1 by LAYOUT."""
    text = "".join(f"{byte:08b}" for byte in data[:HEADER_BYTES])
    found = {}
    for name, bits in LAYOUT:
        found[name], text = int(text[:bits], 2), text[bits:]
    assert text == ""
    return found


def build(values, payload):
    """A frame from a value for every field but the checksum, which is made right."""
    text = "".join(f"{values[name]:0{bits}b}" for name, bits in LAYOUT[:-1])
    head = int(text, 2).to_bytes(12, "big")
    return head + zlib.crc32(payload + head).to_bytes(4, "big") + payload


def test_the_header_is_sixteen_bytes():
    assert sum(WIDTH.values()) == 8 * HEADER_BYTES == 128
    assert len(bytes(Frame(Header(0, 0, 0), b""))) == HEADER_BYTES
    assert all(len(bytes(frame)) == HEADER_BYTES + len(frame.payload) for frame in FRAMES)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_owns_its_documented_bits_and_no_others(name):
    plain = Header(0, 0, 0)
    for bit in range(WIDTH[name]):
        value = True if WIDTH[name] == 1 else 1 << bit
        found = fields(bytes(Frame(replace(plain, **{name: value}), b"x")))
        checksum = found.pop("checksum")
        expected = dict.fromkeys(found, 0) | {"magic": 0xFB, "version": 1, name: int(value)}
        assert found == expected
        assert bytes(Frame(replace(plain, **{name: value}), b"x")) == build(expected, b"x")
        assert checksum == zlib.crc32(b"x" + build(expected, b"x")[:12])


@pytest.mark.parametrize(("text", "frame"), GOLDEN)
def test_golden_frames_are_written_and_read(text, frame):
    assert bytes(frame).hex() == text
    assert Frame.parse(bytes.fromhex(text)) == frame


def test_the_documentation_has_the_same_layout_and_a_golden_frame():
    page = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    at, documented = 0, []
    for row in rows:
        if len(row) == 4 and row[1].isdigit():
            first, last = (int(part) for part in (row[0].split("-") * 2)[:2])
            assert (first, last) == (at, at + int(row[1]) - 1), row
            documented.append((row[2].strip("`"), int(row[1])))
            at = last + 1
    assert documented == LAYOUT
    assert GOLDEN[1][0] in page


@pytest.mark.parametrize("frame", FRAMES)
def test_every_flipped_bit_is_found(frame):
    data = bytes(frame)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 128 >> bit % 8
        with pytest.raises(WireError):
            Frame.parse(flipped)


@pytest.mark.parametrize("frame", FRAMES)
def test_every_shorter_or_longer_frame_is_found(frame):
    data = bytes(frame)
    for cut in range(len(data)):
        with pytest.raises(WireError):
            Frame.parse(data[:cut])
    for extra in [b"\0", b"\xff", bytes(1000), data]:
        with pytest.raises(WireError):
            Frame.parse(data + extra)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"magic": 0x1F}, "not a fewbits frame: first byte is 0x1F, expected 0xFB"),
        ({"version": 2}, "wire version 2; this library reads version 1"),
        ({"version": 0}, "wire version 0"),
        ({"zero": 1}, "reserved header bits"),
        ({"zero": 2}, "reserved header bits"),
    ],
)
def test_a_foreign_frame_is_refused_by_name_even_with_a_right_checksum(change, sentence):
    values = dict.fromkeys(WIDTH, 0) | {"magic": MAGIC, "version": VERSION}
    assert Frame.parse(build(values, b"abc")) == Frame(Header(0, 0, 0), b"abc")
    with pytest.raises(WireError, match=sentence):
        Frame.parse(build(values | change, b"abc"))


def test_a_wrong_checksum_names_both():
    data = bytearray(bytes(FRAMES[0]))
    data[-1] ^= 1
    with pytest.raises(WireError, match="checksum is 579D8139, the bytes give 579D8138"):
        Frame.parse(data)


@pytest.mark.parametrize("thing", [None, "text", 3, [1, 2], np.zeros(16, np.uint8)])
def test_what_is_not_bytes_is_no_frame(thing):
    with pytest.raises(WireError, match="a frame is bytes"):
        Frame.parse(thing)


def test_any_kind_of_bytes_is_parsed():
    frame = FRAMES[2]
    data = bytes(frame)
    words = memoryview(np.frombuffer(data, np.uint32))  # its len() is 6, not 24
    for kind in (data, bytearray(data), memoryview(data), words):
        parsed = Frame.parse(kind)
        assert parsed == frame and bytes(parsed.payload) == data[16:]


@pytest.mark.parametrize("name", ["codec", "sequence", "ack", "history"])
def test_a_field_that_does_not_fit_is_the_callers_mistake(name):
    for value in (-1, 1 << WIDTH[name]):
        with pytest.raises(LocalError, match="frame"):
            bytes(Frame(replace(Header(0, 0, 0), **{name: value}), b""))


def test_a_full_link_is_refused_with_the_number_of_its_frames():
    with pytest.raises(LocalError, match="a link carries 16777215 frames"):
        Header(0, 2**24, 0).pack()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("ack", [0, 1, 0xFFFF, 2**16 + 7])
def test_acknowledging_changes_the_ack_and_the_checksum_only(frame, ack):
    other = frame.acknowledging(ack)
    assert other == replace(frame, header=replace(frame.header, ack=ack % 2**16))
    before, after = fields(bytes(frame)), fields(bytes(other))
    assert after.pop("ack") == ack % 2**16
    assert {name: after[name] for name in after if name != "checksum"} == {
        name: before[name] for name in before if name not in ("ack", "checksum")
    }
    assert bytes(other)[HEADER_BYTES:] == bytes(frame)[HEADER_BYTES:]
    assert Frame.parse(bytes(other)) == other
