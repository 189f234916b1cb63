"""Slots: what a kill, a full disk, damage, and other processes leave of large states."""

import errno
import multiprocessing
import os
import random
import signal
import sqlite3
from contextlib import closing, suppress

import pytest

from digits_task import evidence, federation, mlp, task
from fewbits.errors import FewbitsError, LocalError
from fewbits.links import StateStore, store
from fewbits.links.store import LARGE
from fewbits.methods import build

FORK = multiprocessing.get_context("fork")
OWNERS = range(4)


def blob(owner, round, salt=0):
    """A blob that gets a slot; no two have the same bytes, and lengths differ."""
    drawn = random.Random(f"{owner} {round} {salt}")
    return drawn.randbytes(64) * (LARGE // 64 + drawn.randrange(300))


def held(states):
    return {owner: states.get(owner, "up") for owner in OWNERS}


# Damage


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("size", [LARGE, LARGE + 1])
@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda path: flip(path, 0), "checksum of the state at byte 0 is"),
        (lambda path: flip(path, LARGE - 1), "checksum of the state at byte 0 is"),
        (lambda path: os.truncate(path, LARGE - 1), "it ends before byte"),
        (lambda path: os.truncate(path, 0), "it ends before byte 327"),
        (lambda path: path.unlink(), "is missing: it holds states of the database"),
    ],
)
@pytest.mark.parametrize("writer", ["0", "1"])
def test_a_harmed_file_is_named_and_gives_no_state(size, harm, said, writer, tmp_path):
    with closing(StateStore(tmp_path)) as states:
        states.put(1, "up", 1, random.Random(1).randbytes(size))
        states.put(2, "up", 1, b"small")
    harm(tmp_path / "states-0.slots")
    with closing(StateStore(tmp_path, writer=writer)) as states:
        for _ in range(2):
            with pytest.raises(LocalError, match=rf"states-0\.slots:? {said}"):
                states.get(1, "up")
        with pytest.raises(LocalError, match=rf"states-0\.slots:? {said}"):
            states.fetch([1, 2], "up")
        assert states.get(2, "up") == b"small"
        states.put(1, "up", 2, blob(1, 2))
        assert states.get(1, "up") == blob(1, 2), "it can be replaced"


@pytest.mark.parametrize("text", ["", "1", "0+5", "-4096+5+1", "0+-1+1", "1e3+5+1", "0+5+1\n", "٣+5+1", "9" * 40])
def test_a_database_that_tells_of_no_slot_is_refused(text, tmp_path):
    with closing(StateStore(tmp_path)) as states:
        states.put(1, "up", 1, blob(1, 1))
    with closing(sqlite3.connect(tmp_path / "states-0.sqlite")) as file, file:
        file.execute("UPDATE states SET data=?", (text,))
    with pytest.raises(LocalError, match=r"states-0\.slots: the database says '.*' where a state is; it is damaged"):
        StateStore(tmp_path)
    with closing(StateStore(tmp_path / "other", writer="1")):
        pass


def test_a_database_that_tells_of_more_than_there_is_gets_no_memory(tmp_path):
    with closing(StateStore(tmp_path)) as states:
        states.put(1, "up", 1, blob(1, 1))
    with closing(sqlite3.connect(tmp_path / "states-0.sqlite")) as file, file:
        file.execute("UPDATE states SET data='0+100000000000000000+1'")
    with (
        closing(StateStore(tmp_path, writer="1")) as states,
        pytest.raises(LocalError, match=r"states-0\.slots: it ends before byte 100000000000000000"),
    ):
        states.get(1, "up")


# A full disk


def test_a_full_disk_leaves_what_was_and_takes_no_room(tmp_path, monkeypatch):
    written = os.pwritev

    def half(file, pieces, at):
        if at % 4096 == 0:
            return written(file, [bytes(pieces[0])[:100]], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(StateStore(tmp_path)) as states:
        states.put(1, "up", 1, blob(1, 1))
        states.commit()
        size = (tmp_path / "states-0.slots").stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr("os.pwritev", half)
            for _ in range(5):
                with pytest.raises(FewbitsError, match=r"states-0\.slots: No space left on device"):
                    states.put(1, "up", 2, blob(1, 2))
        assert states.get(1, "up") == blob(1, 1)
        states.put(1, "up", 3, blob(1, 3))
        states.commit()
        assert states.get(1, "up") == blob(1, 3)
        assert (tmp_path / "states-0.slots").stat().st_size <= size + len(blob(1, 3)) + 4096


# Other processes


def test_two_stores_of_one_file_never_share_a_slot(tmp_path):
    """As two processes that play the same client, since one of them was thought dead."""
    first, second = StateStore(tmp_path), StateStore(tmp_path)
    expected = {}
    for round in range(1, 30):
        states = (first, second)[random.Random(round).randrange(2)]
        states.horizon = round - 1
        for owner in OWNERS[round % 2 :: 2]:
            states.put(owner, "up", round, blob(owner, round))
            expected[owner] = blob(owner, round)
        if round % 5 == 0:
            states.rollback(round, OWNERS, "up")
            expected = held(states)
        states.commit()
        assert all(first.get(o, "up") == second.get(o, "up") == data for o, data in expected.items())
    first.close()
    second.close()


def test_a_slot_that_was_given_away_while_it_was_looked_up_gives_the_newer_state(tmp_path):
    writer, reader = StateStore(tmp_path, writer="1"), StateStore(tmp_path, writer="2")
    reader.refresh()
    writer.put(1, "up", 1, blob(1, 1))
    writer.commit()
    row = reader._newest(1, "up")
    assert row is not None and isinstance(row[1], str)
    for round in (2, 3, 4):
        writer.horizon = round
        writer.put(1, "up", round, blob(1, round))
        writer.commit()
    with pytest.raises(LocalError, match="checksum"):
        reader._slots["states-1.sqlite"].read(row[1])
    assert bytes(reader._blob(row, 1, "up", b"head")) == b"head" + blob(1, 4)
    writer.close()
    reader.close()


# Kills


def play(folder, seed, told):
    """Random rounds, some of them taken back; tells of each commit, before and after it."""
    states = StateStore(folder)
    drawn, start = random.Random(seed), max(states.newest(owner, "up") or 0 for owner in OWNERS)
    for round in range(start + 1, start + 1000):
        states.horizon = round - drawn.randrange(1, 3)
        for owner in OWNERS:
            if drawn.random() < 0.7:
                states.put(owner, "up", round, blob(owner, round, seed))
        if drawn.random() < 0.3:
            states.rollback(round, OWNERS[::2], "up")
        after = {owner: hash(data) for owner, data in held(states).items()}
        told.send(after)
        states.commit()
        told.send(after)


def test_a_process_killed_at_random_moments_leaves_its_last_commit(tmp_path):
    moments, before = random.Random(5), dict.fromkeys(OWNERS, hash(None))
    for seed in range(6):
        mine, told = FORK.Pipe(duplex=False)
        child = FORK.Process(target=play, args=(tmp_path, seed, told))
        child.start()
        told.close()
        messages = [mine.recv() for _ in range(moments.randrange(1, 12))]
        if moments.random() < 0.5:
            child.join(moments.uniform(0, 0.01))
        child.kill()
        child.join()
        while mine.poll():
            try:
                messages.append(mine.recv())
            except EOFError:
                break
        assert child.exitcode == -signal.SIGKILL
        committed, asked = (messages[-1], messages[-1]) if len(messages) % 2 == 0 else [before, *messages][-2:]
        with closing(StateStore(tmp_path)) as states:
            found = {owner: hash(data) for owner, data in held(states).items()}
        assert found in (committed, asked)
        before = found


@pytest.mark.parametrize("name", ["topk", "lbgm"])
def test_a_run_of_large_states_killed_at_random_moments_ends_as_if_it_had_been_left_alone(name, tmp_path):
    def run(folder, processes=1, told=None):
        big = task(clients=4, model=lambda: mlp(160))  # 12,000 numbers: states of 48 KB and more
        run = federation(build(name), folder, task=big, rounds=12, checkpoint_every=2, processes=processes)
        run.run(lambda report: told and told.send(report.round))
        return run

    moments, kills = random.Random(name), 0
    expected = evidence(run(tmp_path / "left alone"))
    for attempt in range(6):
        mine, told = FORK.Pipe(duplex=False)
        child = FORK.Process(target=run, args=(tmp_path / "killed", 1 + attempt % 2, told))
        child.start()
        told.close()
        with suppress(EOFError):  # the end of a child that finished
            for _ in range(moments.randrange(1, 5)):
                mine.recv()
            child.join(moments.uniform(0, 0.02))
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
    assert kills > 1
    assert list((tmp_path / "killed" / "states").glob("*.slots"))
    final = run(tmp_path / "killed", 2)
    assert evidence(final) == expected and final.notes == []


# Folders of before


@pytest.mark.parametrize("first, then", [(2**60, 1), (1, 2**60)])
def test_a_run_goes_on_whose_states_all_lie_in_sqlite_or_all_beside_it(first, then, tmp_path, monkeypatch):
    left_alone = federation(build("lbgm+topk"), tmp_path / "left alone", rounds=6, checkpoint_every=2)
    left_alone.run()
    for large, rounds in ((first, 3), (then, 6)):
        monkeypatch.setattr(store, "LARGE", large)
        run = federation(build("lbgm+topk"), tmp_path / "run", rounds=rounds, checkpoint_every=2)
        run.run()
        assert any((tmp_path / "run" / "states").glob("*.slots")) == (large == 1 or rounds == 6)
    assert evidence(run) == evidence(left_alone)


def test_a_run_whose_slots_are_gone_is_refused_with_their_name(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LARGE", 1)
    federation(build("topk"), tmp_path, rounds=2, checkpoint_every=1).run()
    for path in (tmp_path / "states").glob("*.slots"):
        path.unlink()
    with pytest.raises(FewbitsError, match=r"states-\w+\.slots is missing"):
        federation(build("topk"), tmp_path, rounds=4).run()
