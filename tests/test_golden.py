"""Frames that were written once decode for ever, to the same bits, on every machine.

Values, dither and supports come from integer hashes and single float32 operations, so the frames themselves are the
same everywhere too. The one exception is the coefficient of LookBack and Predict: a float64 sum, whose order is the
machine's, rounded to float32; it would have to lie within 1e-9 of a rounding boundary to differ.
"""

import json
from pathlib import Path

import pytest

from every_codec import CODECS, ends, fingerprint, run, stream

GOLDEN = json.loads((Path(__file__).parent / "golden" / "frames-v1.json").read_text())


def test_every_example_has_golden_frames():
    missing = [repr(codec) for codec in CODECS if repr(codec) not in GOLDEN]
    assert not missing, f"run tests/golden/make.py for {missing}"


@pytest.mark.parametrize("codec", [c for c in CODECS if repr(c) in GOLDEN], ids=repr)
def test_golden_frames_decode_to_the_same_values_and_the_same_state(codec):
    golden = GOLDEN[repr(codec)]
    _, receiver = ends(codec)
    for frame, value in zip(golden["frames"], golden["values"], strict=True):
        assert fingerprint(receiver.receive(bytes.fromhex(frame))) == value
    assert receiver.dump().hex() == golden["state"]
    receiver.load(bytes.fromhex(golden["state"]))
    assert receiver.dump().hex() == golden["state"]


@pytest.mark.parametrize("codec", [c for c in CODECS if repr(c) in GOLDEN], ids=repr)
def test_the_same_values_still_give_the_golden_frames(codec):
    assert [frame.hex() for frame in run(codec, list(stream(4)))[0]] == GOLDEN[repr(codec)]["frames"]
