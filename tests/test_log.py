"""The log of a broadcast in a folder: what is sound is recovered, what is not is said, and the bytes stay the same."""

import os
from pathlib import Path

import pytest

from every_codec import TREE, fingerprint
from fewbits.codecs import Delta, Quantize, Raw, TopK, chain, route
from fewbits.coders import Rans
from fewbits.links import Broadcast, Downlink, SharedInit, Subscriber
from fewbits.links.bundle import leb
from fewbits.links.log import Log
from fewbits.rng import Key
from fewbits.wire import Frame
from test_broadcast import DIFFERENCES, versions

CODEC = DIFFERENCES[1]
OWN = Downlink(Delta(chain(Quantize(8), Rans())), personal=chain(Quantize(4), Rans()))


def published(count, folder=None, codec=CODEC, keep=6):
    server = Broadcast(codec, TREE, Key(0), keep=keep)
    if folder is not None:
        assert server.attach(folder) == []
    for x in versions(count):
        server.publish(x)
    return server


def bundles(server):
    return [server.bundle(version) for version in range(server.version)]


def files(folder):
    return sorted(folder.glob("*.frames"))


@pytest.mark.parametrize("codec", [*DIFFERENCES, OWN], ids=repr)
@pytest.mark.parametrize("stop", [1, 2, 7, 20])
def test_a_broadcast_that_goes_on_from_its_folder_gives_the_same_bytes(codec, stop, tmp_path):
    """Killed after `stop` versions, it becomes by itself what the folder holds."""
    published(stop, tmp_path, codec)
    again, xs = Broadcast(codec, TREE, Key(0), keep=6), list(versions(24))
    assert again.attach(tmp_path) == [] and again.version == stop
    plain = published(stop, None, codec)
    for x in [None, *xs[stop:]]:
        if x is not None:
            plain.publish(x)
            again.publish(x)
        assert bundles(again) == bundles(plain) and fingerprint(again.value) == fingerprint(plain.value)


@pytest.mark.parametrize("codec", [*DIFFERENCES, OWN], ids=repr)
def test_a_dump_leads_back_in_the_folder_and_on_to_the_same_bytes(codec, tmp_path):
    """A checkpoint of version 9, a kill at version 17: entries beyond the checkpoint are dropped and made again."""
    xs = list(versions(24))
    server = Broadcast(codec, TREE, Key(0), keep=6)
    server.attach(tmp_path)
    for i, x in enumerate(xs[:17], start=1):
        server.publish(x)
        if i == 9:
            dumped = server.dump()
            assert len(dumped) == 1, "the log is not in it"
            server.horizon = 9
    again = Broadcast(codec, TREE, Key(0), keep=6)
    assert again.load(dumped) == [] and again.attach(tmp_path) == [] and again.version == 9
    plain = published(9, None, codec)
    for x in xs[9:]:
        plain.publish(x)
        again.publish(x)
        assert bundles(again) == bundles(plain)


def test_files_are_bounded_and_go_back_as_far_as_a_checkpoint_needs(tmp_path):
    server = published(100, tmp_path, keep=6)
    assert len(files(tmp_path)) <= 3
    server.horizon = 100
    for x in versions(40):
        server.publish(x)
    assert Broadcast(CODEC, TREE, Key(0), keep=6).attach(tmp_path) == []
    assert Log(tmp_path, 6, server._history._hash).first <= 100 - 6
    server.horizon = 140
    for x in versions(7):
        server.publish(x)
    assert len(files(tmp_path)) <= 3


def test_a_log_cut_at_any_byte_is_recovered_to_its_last_whole_entry_and_says_so(tmp_path):
    xs = list(versions(12))
    published(5, tmp_path)
    (path,) = files(tmp_path)
    data, ends, at = path.read_bytes(), [], 0
    for record in Log(tmp_path, 6, published(1)._history._hash).records():
        at += len(leb(len(record)) + record)
        ends.append(at)
    assert at == len(data)
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)  # versions that are left
        server = Broadcast(CODEC, TREE, Key(0), keep=6)
        said = server.attach(tmp_path)
        assert server.version == whole
        if whole == 0:
            assert len(said) == 1 and str(path) in said[0] and "none of it can be used" in said[0]
        else:
            assert (said == []) == (cut in ends)
            assert all(str(path) in note and f"cut back to version {whole}" in note for note in said)
            assert fingerprint(server.value) == fingerprint(published(whole).value)
        if whole and cut in ends:
            server.publish(xs[whole])
            assert bundles(server) == bundles(published(whole + 1))


def test_any_flipped_bit_is_found_and_what_is_before_it_is_kept(tmp_path):
    published(4, tmp_path)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 11):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(bad))
        server = Broadcast(CODEC, TREE, Key(0), keep=6)
        said = server.attach(tmp_path)
        assert len(said) == 1 and str(path) in said[0] and server.version < 4
        if server.version:
            assert fingerprint(server.value) == fingerprint(published(server.version).value)


def test_what_a_kill_left_behind_a_checkpoint_is_no_complaint_and_what_it_lost_before_is(tmp_path):
    server = Broadcast(CODEC, TREE, Key(0), keep=6)
    server.attach(tmp_path)
    for x in versions(5):
        server.publish(x)
        if server.version == 3:
            early = server.dump()
    late = server.dump()
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    damaged = path.read_bytes()
    for dumped, version, complaints in ((early, 3, 0), (late, 5, 1)):
        path.write_bytes(damaged)
        again = Broadcast(CODEC, TREE, Key(0), keep=6)
        again.load(dumped)
        said = again.attach(tmp_path)
        assert len(said) == complaints and again.version == version
        assert fingerprint(again.value) == fingerprint(published(version).value), "the checkpoint has it"
        assert fingerprint(Subscriber(CODEC, TREE).receive(again.bundle(None))) == fingerprint(again.value)


def test_the_folder_of_another_run_or_codec_is_said_and_begun_anew(tmp_path):
    published(5, tmp_path)
    other = Broadcast(CODEC, TREE, Key(0))
    other.publish({name: v + 1 for name, v in next(versions(1)).items()})
    assert "another run" in other.attach(tmp_path)[0]
    stranger = Broadcast(DIFFERENCES[0], TREE, Key(0))
    stranger.publish(next(versions(1)))
    (said,) = stranger.attach(tmp_path)
    assert "another codec" in said
    assert len(files(tmp_path)) == 1 and stranger.dump() and stranger.frames(None)


def test_a_lost_file_in_the_middle_leaves_what_follows_it(tmp_path):
    server = Broadcast(CODEC, TREE, Key(0), keep=6)
    server.attach(tmp_path)
    server.horizon = 1
    for x in versions(16):
        server.publish(x)
    first, middle, _ = files(tmp_path)
    middle.unlink()
    again = Broadcast(CODEC, TREE, Key(0), keep=6)
    (said,) = again.attach(tmp_path)
    assert "are lost" in said and again.version == 16 and not first.exists()
    assert fingerprint(again.value) == fingerprint(server.value)
    assert Frame.parse(again.frames(11)[0]).header.snapshot


def test_what_is_synced_is_what_was_written(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    server = published(9, tmp_path)
    server.sync()
    assert set(synced) == {str(tmp_path), *map(str, files(tmp_path))}
    synced.clear()
    server.sync()
    assert synced == []


def test_whole_values_need_no_log(tmp_path):
    server = Broadcast(route([("*", Raw())]), TREE, Key(0))
    assert server.attach(tmp_path / "log") == [] and not (tmp_path / "log").exists()
    for x in versions(3):
        server.publish(x)
    again = Broadcast(route([("*", Raw())]), TREE, Key(0))
    again.load(server.dump())
    assert bundles(again) == bundles(server) and len(server.dump()) == 2


def test_a_seed_survives_in_the_dump():
    def build(key):
        return next(versions(1))

    server = Broadcast(Delta(TopK(0.1)), TREE, Key(0), seed=SharedInit(Key(0), build))
    for x in versions(3):
        server.publish(x)
    again = Broadcast(Delta(TopK(0.1)), TREE, Key(0), seed=SharedInit(Key(0), build))
    again.load(server.dump())
    assert bundles(again) == bundles(server) and again.dump() == server.dump()
