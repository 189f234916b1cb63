"""Frames that were written once decode for ever, to the same bits, on every machine.

Values, dither and supports come from integer hashes and single float32 operations, so the frames themselves are the
same everywhere too. The one exception is the coefficient of LookBack and Predict: a float64 sum, whose order is the
machine's, rounded to float32; it would have to lie within 1e-9 of a rounding boundary to differ.
"""

import json
from pathlib import Path

import pytest

from broadcasts import DOWNLINKS, followed, played
from every_codec import CODECS, TREE, ends, fingerprint, run, stream
from fewbits.links.bundle import unpack
from fewbits.links.identity import PATCH, PERSONAL, SEED, codec_hash
from fewbits.wire import Frame
from fewbits.wire.identity import canonical

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "frames-v1.json").read_text())


def test_every_example_has_golden_frames():
    missing = [repr(codec) for codec in CODECS if canonical(codec) not in GOLDEN]
    assert not missing, f"run tests/golden/make.py for {missing}"


@pytest.mark.parametrize("codec", [c for c in CODECS if canonical(c) in GOLDEN], ids=repr)
def test_golden_frames_decode_to_the_same_values_and_the_same_state(codec):
    golden = GOLDEN[canonical(codec)]
    _, receiver = ends(codec)
    for frame, value in zip(golden["frames"], golden["values"], strict=True):
        assert fingerprint(receiver.receive(bytes.fromhex(frame))) == value
    assert receiver.dump().hex() == golden["state"]
    receiver.load(bytes.fromhex(golden["state"]))
    assert receiver.dump().hex() == golden["state"]


@pytest.mark.parametrize("codec", [c for c in CODECS if canonical(c) in GOLDEN], ids=repr)
def test_the_same_values_still_give_the_golden_frames(codec):
    assert [frame.hex() for frame in run(codec, list(stream(4)))[0]] == GOLDEN[canonical(codec)]["frames"]


BUNDLES = json.loads((FOLDER / "bundles-v1.json").read_text())
SCENES = [(name, seeded) for name in DOWNLINKS for seeded in (False, True)]


@pytest.mark.parametrize(("name", "seeded"), SCENES)
def test_golden_bundles_of_seeds_patches_and_own_differences_give_the_same_values(name, seeded):
    golden = BUNDLES[f"{name} {seeded}"]
    assert followed(name, [bytes.fromhex(bundle) for bundle, _ in golden]) == [value for _, value in golden]


@pytest.mark.parametrize(("name", "seeded"), SCENES)
def test_the_same_models_still_give_the_golden_bundles(name, seeded):
    assert [[bundle.hex(), value] for bundle, value in played(name, seeded)] == BUNDLES[f"{name} {seeded}"]


def test_golden_bundles_hold_every_kind_of_frame():
    found = set()
    for name, seeded in SCENES:
        down = DOWNLINKS[name]
        kinds = {codec_hash(down.public, TREE, kind): kind for kind in ("", SEED, PATCH)}
        kinds[codec_hash(down.personal, TREE, PERSONAL) if down.personal else -1] = PERSONAL
        for bundle, _ in BUNDLES[f"{name} {seeded}"]:
            for frame in unpack(bytes.fromhex(bundle)):
                header = Frame.parse(frame).header
                found.add((kinds[header.codec], header.key, header.snapshot))
    plain = {("", False, False), ("", False, True), ("", True, False)}
    assert found == plain | {
        (SEED, False, True),
        (PATCH, False, True),
        (PERSONAL, True, False),
        (PERSONAL, False, False),
    }
