"""Laws of memory: what clients keep is on disk, and the disk holds no more than a resume may need."""

import ctypes
import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from digits_task import federation, mlp, task
from fewbits.engines.common.checkpoint import rounds
from fewbits.links import Receiver, Sender, StateStore, ends
from fewbits.methods import lbgm, topk

HIDDEN = 256
STATE_BYTES = 4 * (64 * HIDDEN + HIDDEN + HIDDEN * 10 + 10)  # one look-back vector
CLIENTS = 240


def resident_bytes():
    """Of this process, as the system counts it, without what was freed and waits in the allocator."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def wide(clients=CLIENTS):
    return task(clients, model=lambda: mlp(HIDDEN), size=4)


def test_the_clients_states_are_on_disk_and_not_in_ram(monkeypatch):
    monkeypatch.setattr("fewbits.links.store_file.CACHE_KIB", 256)  # SQLite's own cache is bounded, too, but larger
    federation(lbgm(), task=wide(4), rounds=2).run()  # whatever is loaded once
    gc.collect()
    ends_before = sum(type(thing) in (Sender, Receiver) for thing in gc.get_objects())
    before = resident_bytes()
    grown, ends = [], []

    def watch(report):
        grown.append(resident_bytes() - before)
        ends.append(sum(type(thing) in (Sender, Receiver) for thing in gc.get_objects()) - ends_before)

    run = federation(lbgm(), task=wide(), rounds=4)
    run.run(watch)
    assert max(ends) <= 6, "the broadcast's two; of clients one end each side that is lent, and one they begin with"
    assert run.server.uplinks._in_memory == {}
    both_ends = 2 * CLIENTS * STATE_BYTES  # 54 MB, if it were held
    assert grown[0] < both_ends / 3 and grown[-1] - grown[0] < both_ends / 6


def stored(folder: Path) -> tuple[int, int]:
    """(bytes in the state files, most versions of one end in one file)."""
    most = 0
    for path in folder.glob("states-*.sqlite"):
        with closing(sqlite3.connect(path)) as file:
            counts = file.execute("SELECT COUNT(*) FROM states GROUP BY run, owner, part").fetchall()
            most = max(most, *(count for (count,) in counts), 0)
    return sum(path.stat().st_size for path in folder.iterdir()), most


@pytest.mark.parametrize("processes", [1, 2])
def test_the_store_does_not_grow_with_the_rounds(processes, tmp_path):
    sizes = []

    def watch(report):
        sizes.append(stored(tmp_path / "states"))

    settings = {"rounds": 40, "checkpoint_every": 4, "processes": processes, "task": wide(12)}
    federation(topk(), tmp_path, **settings).run(watch)
    # Back to two checkpoints, at most two versions between them, two after them, and this round's.
    assert max(versions for _, versions in sizes) <= 7
    assert sizes[-1][0] <= 1.3 * max(size for size, _ in sizes[:20])


def test_without_a_folder_a_client_has_at_most_the_version_to_go_back_to():
    run, seen = federation(topk(), rounds=6, task=wide(6)), []
    run.run(lambda _: seen.append(stored(run.server.store.folder)))
    assert max(versions for _, versions in seen) <= 2
    assert not run.server.store.folder.exists()


@pytest.mark.parametrize(("method", "parts"), [(topk(), {"client.up"}), (lbgm(), {"client.up", "server.up"})])
def test_versions_that_a_resume_may_need_are_kept(method, parts, tmp_path, monkeypatch):
    """Every kept checkpoint finds, for every client, the version of its own round: of headers, and of states."""
    made, defer = {}, StateStore.defer  # by owner and part: the data by the round that made it

    def noted(self, owner, part, round, data):
        made.setdefault((owner, part), {})[round] = data
        defer(self, owner, part, round, data)

    monkeypatch.setattr(StateStore, "defer", noted)  # `put` is made of it
    federation(method, tmp_path, rounds=14, checkpoint_every=5, per_round=5, task=task(7)).run()
    assert rounds(tmp_path / "checkpoints") == [10, 14]
    assert {part for _, part in made} == {"client.up", "server.up"} | {part + ends.STATE for part in parts}
    kept = {}
    for path in (tmp_path / "states").glob("states-*.sqlite"):
        with closing(sqlite3.connect(path)) as file:
            kept |= {row[:3]: row[3] for row in file.execute("SELECT owner, part, round, data FROM states")}
    for (owner, part), versions in made.items():
        for checkpoint in (10, 14):
            latest = max((number for number in versions if number <= checkpoint), default=None)
            assert latest is None or kept[owner, part, latest] == versions[latest]
    sent = sum(len(versions) for (_, part), versions in made.items() if part == "server.up")
    assert sent == 14 * 5, "a header for each frame"
    states = sum(len(versions) for (_, part), versions in made.items() if part == "server.up" + ends.STATE)
    assert states < sent, "recycled rounds leave the state as it was"
