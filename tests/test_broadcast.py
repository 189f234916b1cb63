"""Broadcast and Subscriber: the cheapest way back for those who were away, and one public value for all."""

import hashlib
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from every_codec import TREE, fingerprint, payload_of, restamp, stream
from fewbits.codecs import Delta, ErrorFeedback, LookBack, Quantize, Raw, TopK, chain, each, flat, route
from fewbits.coders import Rans, write_delta, write_support
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.links import Broadcast, SharedInit, Subscriber
from fewbits.links.bundle import pack, unpack, wrap
from fewbits.links.downlink import Downlink
from fewbits.links.identity import SEED, codec_hash
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitWriter, Frame, Header

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
    followers = [Subscriber(codec, TREE) for _ in range(4)]
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


def build(key):
    """What a seed of these tests gives."""
    return {name: v * (1 + key.seed) for name, v in next(versions(1)).items()}


def entries_of(server):
    """Every entry that the log still has."""
    return [record for record in server.dump()[1:] if not Frame.parse(record).header.snapshot]


def patch_by_hand(server, states, since):
    """docs/wire-format.md, dumbly: words that differ between any two neighbours of the states from `since` on."""
    groups, now, out = server.codec.groups(TREE), server.version, BitWriter()
    write_delta(now - since, out)
    vectors = [[own[0].numpy() for own in state] for state in states[since - 1 :]]
    out.write_bytes(hashlib.blake2b(b"".join(map(bytes, vectors[-1])), digest_size=8, person=b"fewbits.value").digest())
    for i, _ in enumerate(groups):
        mine = [v[i].view(np.uint32) for v in vectors]
        changed = [j for j in range(len(mine[0])) if any(a[j] != b[j] for a, b in pairwise(mine))]
        write_delta(len(changed) + 1, out)
        write_support(np.array(changed, np.int64), len(mine[0]), out)
        if changed:
            out.write_bytes(vectors[-1][i][changed])
    history = Frame.parse(server.frames(None)[-1]).header
    header = Header(codec_hash(server.codec, TREE, "patch of "), now, history.history, snapshot=True)
    return bytes(Frame(header, out.finish()))


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("codec", DIFFERENCES, ids=repr)
def test_the_shortest_of_all_ways_is_taken_whoever_was_away_for_however_long(codec, seeded):
    """Against every way there is, written by hand: entries, patch, snapshot, each behind a seed at first contact."""
    keep = 12
    server = Broadcast(codec, TREE, Key(0), keep=keep, seed=SharedInit(Key(0), build) if seeded else None)
    latest = Subscriber(codec, TREE, build)
    states, taken = [], set()
    for x in versions(20):
        server.publish(x)
        latest.receive(server.bundle(latest.version))
        states.append(latest._now.state)
        now, entries, snapshot = server.version, entries_of(server), latest.dump()
        seed = [f for f in server.dump()[1:2] if Frame.parse(f).header.codec == codec_hash(server.codec, TREE, SEED)]
        assert bool(seed) == seeded
        for version in range(now):
            ways = {"snapshot": [snapshot]}
            since, before = (1, seed) if version == 0 and seeded else (version, [])
            if version == 0 and seeded and now == 1:
                ways["seed"] = seed
            elif max(1, now - keep) <= since < now:
                ways["entries"] = [*before, *entries[since - now :]]
                patch = patch_by_hand(server, states, since)
                ways["patch"] = [*before, patch]
            lengths = {name: len(pack(frames)) for name, frames in ways.items()}
            found = server.frames(version or None)
            assert len(pack(found)) == min(lengths.values())
            assert found in [frames for name, frames in ways.items() if lengths[name] == min(lengths.values())]
            taken |= {name for name, frames in ways.items() if frames == found}
        assert server.frames(now) == []
    assert taken >= {"entries", "snapshot"} | ({"seed"} if seeded else set())
    if "TopK(fraction=0.2)" in repr(codec) or "TopK(fraction=0.3)" in repr(codec):
        assert "patch" in taken


def test_who_missed_more_than_the_log_holds_gets_a_snapshot():
    server = Broadcast(Delta(chain(TopK(0.02))), TREE, Key(0), keep=3)
    for x in versions(8):
        server.publish(x)
    assert len(server.frames(5)) == 1 and len(server.frames(7)) == 1
    assert [len(f) < 16 + 4 * 41 for f in server.frames(5)] == [True], "a patch"
    for version in (4, 0, None, -70_000, 9, 70_000):
        (frame,) = server.frames(version)
        header = Frame.parse(frame).header
        assert header.snapshot and header.codec == codec_hash(server.codec, TREE) and len(frame) == 16 + 4 * 41


@pytest.mark.parametrize("codec", DIFFERENCES, ids=repr)
def test_a_patch_leads_from_every_version_between_and_from_no_other(codec):
    server, states, froms = Broadcast(codec, TREE, Key(0)), [], []
    latest = Subscriber(codec, TREE)
    for x in versions(7):
        server.publish(x)
        latest.receive(server.bundle(latest.version))
        states.append(latest._now.state)
        froms.append(latest.dump())
    patch = patch_by_hand(server, states, 3)
    for version, held in enumerate(froms, start=1):
        follower = Subscriber(codec, TREE)
        follower.load(held)
        if version < 3:
            with pytest.raises(DesyncError, match=f"leads from public version 3 to 7; we hold version {version}"):
                follower.receive(pack([patch]))
            assert follower.version == version
        else:
            assert fingerprint(follower.receive(pack([patch]))) == fingerprint(server.value)
            assert follower.version == 7
    with pytest.raises(DesyncError, match="we hold version 0"):
        Subscriber(codec, TREE).receive(pack([patch]))


def test_a_patch_of_another_history_is_noticed_by_its_digest():
    codec = Delta(TopK(0.2))
    ours, theirs = Broadcast(codec, TREE, Key(0)), Broadcast(codec, TREE, Key(0))
    follower = Subscriber(codec, TREE)
    for i, x in enumerate(versions(6)):
        ours.publish(x)
        theirs.publish(x if i else {name: v + 1 for name, v in x.items()})
        if i == 0:
            follower.receive(ours.bundle(None))
    before = fingerprint(follower.value)
    (patch,) = theirs.frames(2)
    bad = restamp(patch)
    with pytest.raises(DesyncError, match="public version 2"):
        follower.receive(pack([bad]))
    follower.receive(ours.bundle(1))
    follower.load(follower.dump())
    assert fingerprint(follower.value) == fingerprint(ours.value) != before
    late = Subscriber(codec, TREE)
    late.receive(pack([ours.frames(None)[0]]))
    stale = restamp(patch, sequence=7)
    with pytest.raises(DesyncError, match="does not give the server's value"):
        late.receive(pack([stale]))
    assert fingerprint(late.value) == fingerprint(ours.value)


def test_damaged_patches_are_refused_and_change_nothing():
    codec = Delta(TopK(0.1))
    server, follower = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
    for i, x in enumerate(versions(5)):
        server.publish(x)
        if i == 0:
            follower.receive(server.bundle(None))
    (patch,) = server.frames(1)
    before, payload = fingerprint(follower.value), bytearray(payload_of(patch))
    for bit in range(8 * len(payload)):
        bad = bytearray(payload)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            follower.receive(pack([restamp(patch, bytes(bad))]))
    for cut in range(len(payload)):
        with pytest.raises(WireError):
            follower.receive(pack([restamp(patch, bytes(payload[:cut]))]))
    assert fingerprint(follower.value) == before
    assert fingerprint(follower.receive(pack([patch]))) == fingerprint(server.value)


def replayed(follower, bundles):
    """Give a receiver old bundles again: none may change what it holds."""
    before = follower.version, fingerprint(follower.value), follower.dump()
    for bundle in bundles:
        try:
            follower.receive(bundle)
        except DesyncError as error:
            assert "late or was sent again" in str(error) or "another value" in str(error) or "we hold" in str(error)
        assert (follower.version, fingerprint(follower.value), follower.dump()) == before


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("codec", DIFFERENCES + WHOLE, ids=repr)
def test_no_earlier_bundle_leads_back_or_changes_the_value(codec, seeded):
    server = Broadcast(codec, TREE, Key(0), keep=4, seed=SharedInit(Key(0), build) if seeded else None)
    followers, bundles = [Subscriber(codec, TREE, build) for _ in range(3)], [[], [], []]
    for t, x in enumerate(versions(16)):
        server.publish(x)
        for follower, old, every in zip(followers, bundles, (1, 2, 7), strict=True):
            if t % every == 0:
                old.append(server.bundle(follower.version))
                follower.receive(old[-1])
                replayed(follower, old)
                assert fingerprint(follower.value) == fingerprint(server.value)


@pytest.mark.parametrize("codec", DIFFERENCES, ids=repr)
def test_a_snapshot_of_the_version_held_is_taken_when_its_value_is_another(codec):
    """Two servers that begin with different values: version 1 has the same history on both."""
    follower = Subscriber(codec, TREE)
    for x in versions(3):
        server = Broadcast(codec, TREE, Key(0))
        server.publish(x)
        assert fingerprint(follower.receive(server.bundle(None))) == fingerprint(server.value)
        assert fingerprint(follower.value) == fingerprint(server.value)


@pytest.mark.parametrize("codec", DIFFERENCES + WHOLE, ids=repr)
def test_after_a_server_was_restored_its_receivers_begin_again_and_go_on(codec):
    xs = list(versions(12))
    server, follower = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
    dumps = []
    for x in xs[:8]:
        server.publish(x)
        follower.receive(server.bundle(follower.version))
        dumps.append(server.dump())
    server = Broadcast(codec, TREE, Key(0))
    server.load(dumps[4])
    held = fingerprint(follower.value)
    for bundle in (server.bundle(None), server.bundle(4)):  # whether the server knows nothing, or what it knew then
        with pytest.raises(DesyncError, match=r"ends at version 5, we hold version 8.*load\(None\)"):
            follower.receive(bundle)
        assert (follower.version, fingerprint(follower.value)) == (8, held)
    follower.load(None)
    assert (follower.version, follower.value) == (0, None)
    for x in reversed(xs):
        assert fingerprint(follower.receive(server.bundle(follower.version))) == fingerprint(server.value)
        server.publish(x)


# First contact by a seed


@pytest.mark.parametrize("codec", [DIFFERENCES[1], DIFFERENCES[3], WHOLE[0]], ids=repr)
def test_first_contact_by_a_seed_takes_few_bytes_and_gives_the_same_bits(codec):
    server = Broadcast(codec, TREE, Key(0), seed=SharedInit(Key(5).fold("model"), build))
    server.publish(build(Key(5)))
    bundle = server.bundle(None, ack=3)
    assert len(bundle) == 2 + 16 + 2 + len('[5, "model"]') + 8
    follower = Subscriber(codec, TREE, build)
    assert fingerprint(follower.receive(bundle)) == fingerprint(server.value)
    assert (follower.version, follower.ack) == (1, 3)
    for x in versions(3):
        server.publish(x)
        assert fingerprint(follower.receive(server.bundle(follower.version))) == fingerprint(server.value)
    late = Subscriber(codec, TREE, build)
    assert fingerprint(late.receive(server.bundle(None))) == fingerprint(server.value)


def test_a_seed_that_gives_another_model_is_refused_and_nothing_is_held():
    server = Broadcast(DIFFERENCES[1], TREE, Key(0), seed=SharedInit(Key(5), build))
    server.publish(build(Key(5)))
    for other, said in (
        (lambda key: build(Key(6)), "gives another model here"),
        (None, "was given no build"),
        (lambda key: {name: v * torch.nan for name, v in build(key).items()}, "gives another model here"),
    ):
        follower = Subscriber(DIFFERENCES[1], TREE, other)
        with pytest.raises(DesyncError, match=said):
            follower.receive(server.bundle(None))
        assert (follower.version, follower.value) == (0, None)
    with pytest.raises(LocalError, match="build: expected the tensors"):
        Subscriber(DIFFERENCES[1], TREE, lambda key: {"w": torch.zeros(1)}).receive(server.bundle(None))


def test_a_model_that_the_codec_changes_or_that_is_not_the_seeds_is_sent_and_not_the_seed():
    for codec, x in ((Raw("fp16"), build(Key(0))), (Delta(Raw()), build(Key(1)))):
        server = Broadcast(codec, TREE, Key(0), seed=SharedInit(Key(0), build))
        server.publish({name: v + 1e-3 for name, v in x.items()})
        follower = Subscriber(codec, TREE, build)
        assert fingerprint(follower.receive(server.bundle(None))) == fingerprint(server.value)
    with pytest.raises(LocalError, match=r"seed must be a SharedInit\(key, build\)"):
        Broadcast(Raw(), TREE, Key(0), seed=Key(0))


def test_a_seed_frame_cut_short_or_stretched_is_refused():
    server = Broadcast(DIFFERENCES[0], TREE, Key(0), seed=SharedInit(Key(5), build))
    server.publish(build(Key(5)))
    (frame,) = server.frames(None)
    payload = payload_of(frame)
    for bad in (*(payload[:cut] for cut in range(len(payload))), payload + b"\0", b"\xff\xff" + payload[2:]):
        with pytest.raises(WireError):
            Subscriber(DIFFERENCES[0], TREE, build).receive(pack([restamp(frame, bad)]))


@pytest.mark.parametrize("codec", DIFFERENCES + WHOLE, ids=repr)
def test_a_value_that_is_not_finite_is_not_published_and_the_next_one_is(codec):
    xs = list(versions(4))
    plain, tried = Broadcast(codec, TREE, Key(0)), Broadcast(codec, TREE, Key(0))
    for x in xs:
        with pytest.raises(LocalError, match=r"bias has \d+ NaN"):
            tried.publish({name: v * torch.nan if name == "bias" else v for name, v in x.items()})
        plain.publish(x)
        tried.publish(x)
        assert [tried.bundle(v) for v in range(tried.version)] == [plain.bundle(v) for v in range(plain.version)]


def test_running_statistics_are_exact_beside_differences():
    codec = route([("bias", Raw()), ("*", Delta(chain(Quantize(3))))])
    server, follower = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
    for x in versions(6):
        server.publish(x)
        assert torch.equal(follower.receive(server.bundle(follower.version))["bias"], x["bias"])
    late = Subscriber(codec, TREE)
    assert torch.equal(late.receive(server.bundle(None))["bias"], x["bias"])


def test_a_whole_value_needs_only_the_last_entry():
    server = Broadcast(Raw(), TREE, Key(0))
    for x in versions(5):
        server.publish(x)
    assert len(server.frames(None)) == len(server.frames(1)) == 1
    assert len(server.frames(None)[0]) == 16 + 4 * 41


@pytest.mark.parametrize("codec", [DIFFERENCES[0], WHOLE[2]], ids=repr)
def test_entries_that_are_already_here_are_passed_over(codec):
    server, follower = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
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
    server, follower = Broadcast(Delta(Raw()), TREE, Key(0)), Subscriber(Delta(Raw()), TREE)
    server.publish(next(versions(1)))
    follower.receive(server.bundle(None))
    before = fingerprint(follower.value)
    for ack, length in ((0, 6), (100, 6), (300, 7), (65_535, 8)):
        bundle = server.bundle(1, ack)
        assert len(bundle) == length
        assert fingerprint(follower.receive(bundle)) == before
        assert follower.ack == ack
    for bad in (b"\0", b"\0\0\0", b"\0\xff\xff\xff\x01", bundle + b"\0", bundle[:-1]):
        with pytest.raises(WireError):
            follower.receive(bad)


@pytest.mark.parametrize("ack", [0, 1, 300, 65_535])
def test_no_flipped_bit_makes_an_acknowledgement_another_one(ack):
    server, follower = Broadcast(Delta(Raw()), TREE, Key(0)), Subscriber(Delta(Raw()), TREE)
    server.publish(next(versions(1)))
    follower.receive(server.bundle(None))
    bundle = server.bundle(1, ack)
    for bit in range(8 * len(bundle)):
        damaged = (int.from_bytes(bundle, "big") ^ 1 << bit).to_bytes(len(bundle), "big")
        with pytest.raises(WireError):
            follower.receive(damaged)
    follower.receive(bundle)
    assert follower.ack == ack


def test_the_acknowledgement_is_on_the_last_frame_of_a_bundle():
    server, follower = Broadcast(Delta(TopK(0.02)), TREE, Key(0)), Subscriber(Delta(TopK(0.02)), TREE)
    for x in versions(3):
        server.publish(x)
        follower.receive(server.bundle(follower.version, ack=41))
        assert follower.ack == 41
    follower.receive(pack(frames := [*entries_of(server)]))
    assert len(frames) == 2 and [Frame.parse(f).header.ack for f in unpack(wrap(frames, 7))] == [0, 7]


def test_damaged_bundles_are_refused_and_the_right_one_still_works():
    codec = DIFFERENCES[0]
    server, follower = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
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
    server, follower = Broadcast(Delta(Raw()), TREE, Key(0)), Subscriber(Delta(Raw()), TREE)
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
    for end in (lambda: Broadcast(codec, TREE, Key(0)), lambda: Subscriber(codec, TREE)):
        with pytest.raises(LocalError, match=r"stateless codec or Delta"):
            end()


def test_nothing_can_be_asked_for_before_something_is_published():
    with pytest.raises(LocalError, match="nothing has been published"):
        Broadcast(Raw(), TREE, Key(0)).bundle(None)


def test_bundles_undo_to_their_frames():
    for frames in ([], [b""], [b"a" * 127, b"b" * 128, b"c" * 20_000], [b"x"] * 300):
        assert unpack(pack(frames)) == frames


@pytest.mark.parametrize("codec", [Delta(Raw()), Downlink(Delta(Raw()), personal=chain(Quantize(4)))], ids=repr)
def test_a_bundle_that_leads_to_version_0_is_refused(codec):
    """Versions count from 1, and training looks at the version: which vectors of s move, and which noise is drawn."""
    server, client = Broadcast(codec, TREE, Key(0)), Subscriber(codec, TREE)
    server.publish(next(stream(1)))
    frame = Frame.parse(server.snapshot)
    forged = bytes(Frame(replace(frame.header, sequence=0), frame.payload))
    with pytest.raises(WireError, match="leads to version 0; versions count from 1"):
        client.receive(pack([forged]))
    assert client.version == 0 and client.value is None


def test_the_same_version_with_other_bytes_is_another_one():
    """A server that was restored from an older copy and played on to the version that a client holds."""
    x, spec = torch.zeros(3), Spec((3,))
    server, client = Broadcast(Raw(), spec, Key(0)), Subscriber(Raw(), spec)
    server.publish(x)
    older = server.dump()
    server.publish(x + 1)
    client.receive(server.bundle(None))
    server.load(older)
    server.publish(x + 2)
    with pytest.raises(DesyncError, match="another version 2 than the one held"):
        client.receive(server.bundle(None))
    assert torch.equal(client.value, x + 1)
