"""StateStore: versions by round, many writers, and what a kill leaves."""

import os
import sqlite3

import pytest

from fewbits.errors import LocalError
from fewbits.links import StateStore
from fewbits.links.store import LARGE


def test_what_was_put_is_there_after_closing(tmp_path):
    store = StateStore(tmp_path / "states")
    store.put(7, "up", 1, b"seven")
    assert store.get(7, "up") == b"seven"
    store.close()
    again = StateStore(tmp_path / "states")
    assert again.get(7, "up") == b"seven"
    assert again.get(7, "down") is None
    assert again.get(8, "up") is None
    again.close()


def test_the_latest_round_wins_and_the_same_round_is_replaced(tmp_path):
    store = StateStore(tmp_path)
    for round, data in ((1, b"a"), (3, b"c"), (2, b"b"), (3, b"d")):
        store.put(1, "up", round, data)
    assert store.get(1, "up") == b"d"
    store.close()


def test_what_is_deferred_is_there_for_every_question_and_in_its_order(tmp_path):
    store = StateStore(tmp_path)
    store.put(1, "up", 1, b"put")
    store.defer(1, "up", 2, b"deferred")
    assert store.get(1, "up") == b"deferred"
    store.defer(1, "up", 3, b"older")
    store.put(1, "up", 3, b"newer")
    assert store.get(1, "up") == b"newer"
    for owner in range(3000):  # more than are held
        store.defer(owner, "many", 1, bytes(owner % 7))
    store.defer(2, "up", 4, b"taken back")
    store.rollback(4, [2], "up")
    assert store.get(2, "up") is None
    store.defer(3, "up", 4, b"of another time")
    store.forget_after(3)
    assert store.get(3, "up") is None
    store.close()
    again = StateStore(tmp_path)
    assert all(again.get(owner, "many") == bytes(owner % 7) for owner in range(3000))
    again.close()


def test_what_is_deferred_drops_the_versions_that_a_put_would_drop(tmp_path):
    kept = []
    for name in ("put", "defer"):
        store = StateStore(tmp_path / name)
        for round in range(1, 12):
            store.horizon, store.saved = (round - 1) // 4 * 4, (round - 1) // 2 * 2
            getattr(store, name)(1, "up", round, b"x")
        store.commit()
        kept.append([r for (r,) in store._writing.execute("SELECT round FROM states ORDER BY round")])
        store.close()
    assert kept[0] == kept[1] and len(kept[0]) < 8


def test_fetching_answers_as_getting_does_until_the_next_commit(tmp_path):
    first, second = StateStore(tmp_path, writer="1"), StateStore(tmp_path, writer="2")
    first.refresh()
    for round, store in ((1, first), (2, second), (3, first)):
        for owner in range(round, 40, round):
            store.put(owner, "up", round, bytes([owner, round]))
        store.commit()
    owners = range(45)
    expected = [second.get(owner, "up") for owner in owners]
    second.fetch(owners, "up")
    assert [second.get(owner, "up") for owner in owners] == expected
    assert second.get(3, "down") is None
    first.put(1, "up", 4, b"newer")
    first.commit()
    assert second.get(1, "up") == expected[1], "as it was fetched"
    second.put(2, "up", 4, b"own")
    assert second.get(2, "up") == b"own"
    second.commit()
    assert (second.get(1, "up"), second.get(2, "up")) == (b"newer", b"own")
    first.close()
    second.close()


def test_runs_do_not_see_each_other(tmp_path):
    first, second = StateStore(tmp_path, run="a", writer="1"), StateStore(tmp_path, run="b", writer="2")
    first.put(1, "up", 1, b"a")
    first.commit()
    assert second.get(1, "up") is None
    first.close()
    second.close()


def test_writers_see_what_others_committed_and_nothing_else(tmp_path):
    first, second = StateStore(tmp_path, writer="1"), StateStore(tmp_path, writer="2")
    first.refresh()
    first.put(1, "up", 1, b"new")
    assert second.get(1, "up") is None
    first.commit()
    assert second.get(1, "up") == b"new"
    second.put(1, "up", 2, b"newer")
    second.commit()
    assert first.get(1, "up") == b"newer"
    first.close()
    second.close()


def test_versions_back_to_the_horizon_are_kept_for_going_back(tmp_path):
    store = StateStore(tmp_path)
    for round in range(1, 7):
        store.horizon = max(0, round - 3)
        store.put(1, "up", round, str(round).encode())
    kept = [r for (r,) in store._writing.execute("SELECT round FROM states ORDER BY round")]
    assert kept == [3, 4, 5, 6]
    store.forget_after(4)
    assert store.get(1, "up") == b"4"
    store.forget_after(2)
    assert store.get(1, "up") is None
    store.close()


def test_forgetting_reaches_every_writers_file_and_no_other_run(tmp_path):
    for writer, round in (("1", 1), ("2", 2)):
        store = StateStore(tmp_path, run="a", writer=writer)
        store.put(1, "up", round, writer.encode())
        store.close()
    other = StateStore(tmp_path, run="b", writer="3")
    other.put(1, "up", 9, b"other")
    other.close()
    store = StateStore(tmp_path, run="a", writer="1")
    assert store.get(1, "up") == b"2"
    store.forget_after(1)
    assert store.get(1, "up") == b"1"
    store.close()
    other = StateStore(tmp_path, run="b", writer="3")
    assert other.get(1, "up") == b"other"
    other.close()


def test_a_round_can_be_taken_back_for_some_owners(tmp_path):
    store = StateStore(tmp_path)
    for owner in range(4):
        for round in (1, 2):
            store.put(owner, "up", round, bytes([owner, round]))
    store.rollback(2, [1, 3], "up")
    assert [store.get(owner, "up") for owner in range(4)] == [b"\0\2", b"\1\1", b"\2\2", b"\3\1"]
    store.close()


def test_what_was_not_committed_is_gone_after_a_kill(tmp_path):
    store = StateStore(tmp_path)
    store.put(1, "up", 1, b"kept")
    store.commit()
    store.put(1, "up", 2, b"lost")
    store.defer(1, "up", 3, b"lost")
    for file in store._files.values():
        file.close()  # as a kill does: no commit
    again = StateStore(tmp_path)
    assert again.get(1, "up") == b"kept"
    again.close()


def test_ten_thousand_clients_are_two_files_at_most(tmp_path):
    store = StateStore(tmp_path)
    for owner in range(10_000):
        store.put(owner, "up", 1, b"x" * 40)
    store.close()
    assert len(list(tmp_path.iterdir())) <= 3  # the file, and what SQLite keeps beside it while open


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "states-0.sqlite").write_bytes(b"this is not a database, and long enough to be read as one" * 20)
    with pytest.raises(LocalError, match=r"states-0\.sqlite: cannot be used as a state store"):
        StateStore(tmp_path)


def test_a_store_is_an_sqlite_file_that_others_can_read(tmp_path):
    store = StateStore(tmp_path, run="r")
    store.put(5, "up", 2, b"data")
    store.close()
    file = sqlite3.connect(tmp_path / "states-0.sqlite")
    assert file.execute("SELECT run, owner, part, round, data FROM states").fetchall() == [("r", 5, "up", 2, b"data")]
    file.close()


def large(owner, round):
    """A blob that gets a slot; its length differs from round to round."""
    return bytes([owner, round]) * (LARGE // 2 + 5000 * (round % 3))


def test_large_blobs_are_there_after_closing_and_in_pieces_and_for_other_writers(tmp_path):
    first, second = StateStore(tmp_path, writer="1"), StateStore(tmp_path, writer="2")
    first.refresh()
    first.put(1, "up", 1, large(1, 1))
    first.put(2, "up", 1, [b"", memoryview(large(2, 1)), b"end"])
    first.put(3, "up", 1, b"small")
    assert second.get(1, "up") is None
    first.commit()
    second.fetch([1, 3], "up")
    assert (second.get(1, "up"), second.get(2, "up")) == (large(1, 1), large(2, 1) + b"end")
    assert second.behind(b"head", 2, "up") == b"head" + large(2, 1) + b"end"
    assert second.behind(b"head", 3, "up") == b"headsmall"
    second.put(3, "up", 2, large(3, 2))
    second.commit()
    assert first.get(3, "up") == large(3, 2)
    first.close()
    second.close()
    again = StateStore(tmp_path, writer="1")
    assert [again.get(owner, "up") for owner in (1, 3)] == [large(1, 1), large(3, 2)]
    again.close()


def test_slots_are_used_again_once_their_loss_is_committed(tmp_path):
    store = StateStore(tmp_path)
    sizes = []
    for round in range(1, 40):
        store.horizon = round - 1
        for owner in range(5):
            store.put(owner, "up", round, large(owner, round))
        assert all(store.get(owner, "up") == large(owner, round) for owner in range(5))
        store.commit()
        sizes.append((tmp_path / "states-0.slots").stat().st_size)
    assert max(sizes) <= 3 * 5 * (LARGE + 14_000), "two versions of each, and what does not fit between them"
    store.close()
    again = StateStore(tmp_path)
    for owner in range(5):
        again.put(owner, "other", 1, large(owner, 7))
    again.commit()
    assert (tmp_path / "states-0.slots").stat().st_size == sizes[-1], "what was free when it was closed is free"
    assert all(again.get(owner, "up") == large(owner, 39) for owner in range(5))
    again.close()


def test_a_kill_before_the_commit_leaves_every_large_blob_as_it_was(tmp_path):
    store = StateStore(tmp_path)
    for round in (1, 2, 3):
        store.horizon = round - 1
        store.put(1, "up", round, large(1, round))
        store.commit()
    store.horizon = 3
    for round in range(4, 12):  # replaces versions that only a commit gives up
        store.put(1, "up", round, large(1, round))
    left = tmp_path / "left"  # as a killed process leaves it
    left.mkdir()
    for path in tmp_path.glob("states-*"):
        (left / path.name).write_bytes(path.read_bytes())
    store.close()
    again = StateStore(left)
    assert again.get(1, "up") == large(1, 3)
    again.put(1, "up", 4, large(2, 4))
    assert again.get(1, "up") == large(2, 4)
    again.forget_after(3)
    assert again.get(1, "up") == large(1, 3)
    again.close()


def test_a_slot_that_a_file_does_not_hold_any_more_is_an_error(tmp_path):
    store = StateStore(tmp_path)
    store.put(1, "up", 1, large(1, 1))
    store.commit()
    os.truncate(tmp_path / "states-0.slots", 100)
    with pytest.raises(LocalError, match=r"states-0\.slots: it ends before byte \d+, so it is damaged"):
        store.get(1, "up")
    store.close()
