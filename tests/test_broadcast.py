"""Broadcast and Follower: the cheapest way back for those who were away, and one public value for all."""

import random

import pytest
import torch

from every_codec import TREE, fingerprint, payload_of, restamp, stream
from fewbits.codecs import Delta, ErrorFeedback, LookBack, Quantize, Raw, TopK, chain, each, flat, route
from fewbits.coders import Rans
from fewbits.errors import LocalError, WireError
from fewbits.link import Broadcast, Follower
from fewbits.link.bundle import pack, unpack
from fewbits.rng import Key
from fewbits.wire import Frame

DIFFERENCES = [
    Delta(chain(Quantize(8), Rans())),
    Delta(chain(TopK(0.3), Quantize(6), Rans())),
    each(Delta(TopK(0.2))),
    route([("bias", Raw()), ("*", Delta(chain(Quantize(8))))]),  # running statistics go whole beside differences
    route([("bias", Delta(Raw())), ("*", Delta(chain(Quantize(4))))]),
]
WHOLE = [Raw(), Raw("fp16"), chain(Quantize(8), Rans()), each(TopK(0.5)), route([("bias", Raw()), ("*", Raw("bf16"))])]


def versions(count: int):
    """A model that drifts."""
    x = {name: torch.zeros_like(v) for name, v in next(stream(1)).items()}
    for step in stream(count):
        x = {name: v + 0.1 * step[name] for name, v in x.items()}
        yield {name: v.clone() for name, v in x.items()}


@pytest.mark.parametrize("codec", DIFFERENCES + WHOLE, ids=repr)
def test_every_follower_has_the_public_value_bit_for_bit_however_long_it_was_away(codec):
    draw = random.Random(0)
    server = Broadcast(codec, TREE, Key(0), keep=6)
    followers = [Follower(codec, TREE) for _ in range(4)]
    for x in versions(25):
        server.publish(x)
        for i, follower in enumerate(followers):
            if draw.random() < (1.0, 0.5, 0.2, 0.05)[i]:
                value = follower.receive(server.bundle(follower.version))
                assert fingerprint(value) == fingerprint(server.value)
                assert follower.version == server.version
    for follower in followers:
        follower.receive(server.bundle(follower.version))
        assert fingerprint(follower.value) == fingerprint(server.value)


@pytest.mark.parametrize("codec", DIFFERENCES, ids=repr)
def test_the_cheaper_of_entries_and_snapshot_is_sent_by_real_length(codec):
    server = Broadcast(codec, TREE, Key(0), keep=64)
    for x in versions(20):
        server.publish(x)
    snapshot, log = server.frames(None)[0], server.dump()[2:]
    assert Frame.parse(snapshot).header.snapshot
    kinds = set()
    for version in range(1, server.version):
        missed = log[version - 1 :]
        assert sum(map(len, server.frames(version))) == min(sum(map(len, missed)), len(snapshot))
        kinds.add(server.frames(version) == missed)
    assert server.frames(server.version) == []
    assert kinds == {False, True}


def test_who_missed_more_than_the_log_holds_gets_a_snapshot():
    server = Broadcast(Delta(chain(TopK(0.02))), TREE, Key(0), keep=3)
    for x in versions(8):
        server.publish(x)
    assert [Frame.parse(f).header.snapshot for f in server.frames(5)] == [False] * 3
    assert [Frame.parse(f).header.snapshot for f in server.frames(4)] == [True]
    assert [Frame.parse(f).header.snapshot for f in server.frames(0)] == [True]
    assert [Frame.parse(f).header.snapshot for f in server.frames(-70_000)] == [True]


def test_running_statistics_are_exact_beside_differences():
    codec = route([("bias", Raw()), ("*", Delta(chain(Quantize(2))))])
    server, follower = Broadcast(codec, TREE, Key(0)), Follower(codec, TREE)
    for x in versions(6):
        server.publish(x)
        assert torch.equal(follower.receive(server.bundle(follower.version))["bias"], x["bias"])
    late = Follower(codec, TREE)
    assert torch.equal(late.receive(server.bundle(None))["bias"], x["bias"])


def test_a_whole_value_needs_only_the_last_entry():
    server = Broadcast(Raw(), TREE, Key(0))
    for x in versions(5):
        server.publish(x)
    assert len(server.frames(None)) == len(server.frames(1)) == 1
    assert len(server.frames(None)[0]) == 16 + 4 * 41


@pytest.mark.parametrize("codec", [DIFFERENCES[0], WHOLE[2]], ids=repr)
def test_entries_that_are_already_here_are_passed_over(codec):
    server, follower = Broadcast(codec, TREE, Key(0)), Follower(codec, TREE)
    xs = list(versions(4))
    server.publish(xs[0])
    follower.receive(server.bundle(None))
    for x in xs[1:]:
        server.publish(x)
    entries = pack(server.frames(None) if codec in WHOLE else server.dump()[2:])
    for _ in range(3):
        assert fingerprint(follower.receive(entries)) == fingerprint(server.value)
    follower.receive(server.bundle(2))  # overlaps what it has
    assert follower.version == 4


def test_nothing_new_is_an_acknowledgement_alone():
    server, follower = Broadcast(Delta(Raw()), TREE, Key(0)), Follower(Delta(Raw()), TREE)
    server.publish(next(versions(1)))
    follower.receive(server.bundle(None))
    before = fingerprint(follower.value)
    for ack, length in ((0, 2), (100, 2), (300, 3), (65_535, 4)):
        bundle = server.bundle(1, ack)
        assert len(bundle) == length
        assert fingerprint(follower.receive(bundle)) == before
        assert follower.ack == ack
    for bad in (b"\0", b"\0\0\0", b"\0\xff\xff\xff\x01"):
        with pytest.raises(WireError):
            follower.receive(bad)


def test_the_acknowledgement_is_on_the_last_frame_of_a_bundle():
    server, follower = Broadcast(Delta(TopK(0.02)), TREE, Key(0)), Follower(Delta(TopK(0.02)), TREE)
    for x in versions(3):
        server.publish(x)
        follower.receive(server.bundle(follower.version, ack=41))
        assert follower.ack == 41
    assert [Frame.parse(f).header.ack for f in unpack(server.bundle(1, ack=7))] == [0, 7]


def test_damaged_bundles_are_refused_and_the_right_one_still_works():
    codec = DIFFERENCES[0]
    server, follower = Broadcast(codec, TREE, Key(0)), Follower(codec, TREE)
    xs = list(versions(4))
    server.publish(xs[0])
    follower.receive(server.bundle(None))
    for x in xs[1:]:
        server.publish(x)
    good = server.bundle(1)
    for cut in range(len(good)):
        with pytest.raises(WireError):
            follower.receive(good[:cut])
    for bit in range(0, 8 * len(good), 5):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            follower.receive(bytes(bad))
    for bad in (
        b"",
        b"\xff" * 40,
        b"\xff\xff\xff\xff\x0f",
        good + b"\0",
        b"\x01\x80",
        pack([b"x"] * 3),
        b"\x01" + b"\xff" * 4 + b"\x0f",
    ):
        with pytest.raises(WireError):
            follower.receive(bad)
    assert fingerprint(follower.receive(server.bundle(follower.version))) == fingerprint(server.value)


def test_a_snapshot_with_values_that_are_not_finite_is_refused():
    server, follower = Broadcast(Delta(Raw()), TREE, Key(0)), Follower(Delta(Raw()), TREE)
    server.publish(next(versions(1)))
    snapshot = server.frames(None)[0]
    payload = bytearray(payload_of(snapshot))
    payload[:4] = b"\x00\x00\xc0\x7f"
    with pytest.raises(WireError, match="not finite"):
        follower.receive(pack([restamp(snapshot, bytes(payload))]))
    assert follower.value is None


@pytest.mark.parametrize("codec", DIFFERENCES + WHOLE, ids=repr)
def test_a_dumped_broadcast_goes_on_with_the_same_bytes(codec):
    xs = list(versions(8))
    server = Broadcast(codec, TREE, Key(0), keep=4)
    for x in xs[:5]:
        server.publish(x)
    again = Broadcast(codec, TREE, Key(0), keep=4)
    again.load(server.dump())
    for x in xs[5:]:
        server.publish(x)
        again.publish(x)
        for version in (None, 2, 4, server.version - 1):
            assert again.bundle(version) == server.bundle(version)


@pytest.mark.parametrize(
    "codec", [ErrorFeedback(TopK(0.1)), LookBack(Raw()), each(LookBack(Raw())), flat(LookBack(Delta(Raw())))]
)
def test_codecs_whose_snapshot_would_not_hold_the_value_are_refused(codec):
    if codec.stateless:
        Broadcast(codec, TREE, Key(0))  # error feedback: every entry is whole
        return
    for end in (lambda: Broadcast(codec, TREE, Key(0)), lambda: Follower(codec, TREE)):
        with pytest.raises(LocalError, match=r"stateless codec or Delta"):
            end()


def test_nothing_can_be_asked_for_before_something_is_published():
    with pytest.raises(LocalError, match="nothing has been published"):
        Broadcast(Raw(), TREE, Key(0)).bundle(None)


def test_bundles_undo_to_their_frames():
    for frames in ([], [b""], [b"a" * 127, b"b" * 128, b"c" * 20_000], [b"x"] * 300):
        assert unpack(pack(frames)) == frames
