"""Laws of resuming: a run killed, stopped or damaged anywhere ends with the bytes of one that was left alone."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digits_task import KEY, evidence, federation, mlp, model_bytes, task
from effort import THOROUGH
from fewbits.codecs import LookBack, Raw, chain
from fewbits.engines.common import checkpoint
from fewbits.engines.simulation import Federation
from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.run_folder import RunFolder
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import FewbitsError, LocalError
from fewbits.federated.server import Server
from fewbits.learn import FedAdam, LocalSGD
from fewbits.links import Ledger, Sender, StateStore, ends
from fewbits.methods import build, dense, intrinsic, lbgm, topk
from fewbits.spec import Spec

ROUNDS = 9
KILLS, LONG = (16, 25) if THOROUGH else (6, 13)  # of a run at random moments, and its rounds
METHODS = {
    "lbgm+topk": (build("lbgm+topk"), {}),
    "topk": (replace(topk(momentum=0.9)), {}),
    "predict, sampled": (build("predict"), {"per_round": 3}),
    "lbgm, FedAdam": (replace(lbgm(), optimizer=FedAdam()), {"per_round": 4}),
    "pfedpara": (build("pfedpara"), {"per_round": 3}),
    "scaffold": (build("scaffold"), {"per_round": 4}),
    # epochs end after rounds 4, 8, ...: checkpoints of every second or third round fall within them, and at their ends
    "time-varying": (intrinsic(dense(momentum=0.5), dim=48, mode="time-varying", epoch=4), {"per_round": 3}),
    "patches": (build("topk", {"down": "sparse"}), {"per_round": 2}),
    "own": (build("topk", {"down": "own4"}), {"per_round": 2}),
}
FORK = multiprocessing.get_context("fork")


def start(name, folder, **settings):
    """The run of that name, new or continued."""
    method, own = METHODS[name]
    return federation(method, folder, **({"rounds": ROUNDS, "checkpoint_every": 2} | own | settings))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Evidence of a method's run when it is left alone, by the method's name."""

    class Found(dict):
        def __missing__(self, name):
            run = start(name, tmp_path_factory.mktemp("undisturbed"))
            run.run()
            self[name] = evidence(run)
            return self[name]

    return Found()


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for ever fails instead."""

    def give_up(*_):
        pytest.fail("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)  # a hang, not a busy machine: 40 seconds were too few on two cores with load 12
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


GROUPS = []  # of processes that tests have started


def alone(action):
    """Start `action` in a process that leads its own group, so that its workers can be found."""

    def lead():
        os.setsid()
        signal.alarm(0)
        action()

    child = FORK.Process(target=lead)
    child.start()
    GROUPS.append(child.pid)
    return child


@pytest.fixture(autouse=True)
def nothing_left_running():
    """After a failure, end what the test has started."""
    yield
    while GROUPS:
        with suppress(ProcessLookupError):
            os.killpg(GROUPS.pop(), signal.SIGKILL)


def living(group):
    """Processes of a group that still run; a zombie does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(group):
    while living(group):
        os.sched_yield()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_been_left_alone(name, tmp_path):
    def run(folder, processes=1):
        run = start(name, folder, processes=processes, rounds=LONG, checkpoint_every=3)
        run.run()
        return run

    moments, ends = random.Random(name), []
    expected = evidence(run(tmp_path / "left alone"))
    while len(ends) < KILLS or ends[-1] != 0:
        child = alone(lambda: run(tmp_path / "killed", processes=1 + len(ends) % 2))
        child.join(moments.uniform(0.01, 0.15) if len(ends) < KILLS else None)
        child.kill()
        child.join()
        ends.append(child.exitcode)
    assert set(ends) == {0, -signal.SIGKILL} and ends.count(-signal.SIGKILL) > 1
    final = run(tmp_path / "killed")
    assert evidence(final) == expected and final.notes == []


def test_workers_end_when_their_run_is_killed(tmp_path):
    ready, tell = FORK.Pipe(duplex=False)

    def action():
        start("topk", tmp_path, processes=3, rounds=10**6).run(lambda _: tell.send("a round"))

    child = alone(action)
    ready.recv()
    assert len(living(child.pid)) == 4
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    wait_until_gone(child.pid)


PLACES = [  # owner, name, which call, after it?
    (checkpoint, "write_atomically", 1, False),  # no checkpoint yet
    (checkpoint, "write_atomically", 2, False),  # the first one's tensors without its note
    (checkpoint, "write_atomically", 3, True),  # new tensors, old note
    (checkpoint, "write_atomically", 4, True),  # two notes, nothing pruned
    (Path, "replace", 5, False),  # a whole file under its temporary name
    (os, "fsync", 5, False),  # the same, not brought to disk
    (Path, "unlink", 1, False),  # three checkpoints
    (Path, "unlink", 1, True),  # tensors whose note is gone
    (Ledger, "flush", 2, False),
    (Ledger, "flush", 2, True),
    (RunFolder, "log", 6, False),  # a round in the states, not in the metrics
    (RunFolder, "log", 6, True),
    (RunFolder, "save", 3, False),
    (Server, "accept", 27, True),  # within a round
    (Server, "step", 5, True),
    (StateStore, "commit", 7, False),  # one end of the links is on disk, the other is not
    (StateStore, "commit", 7, True),
    (Worker, "settle", 7, False),
    (Worker, "settle", 7, True),
    (Worker, "train", 20, True),
    (Worker, "encode", 20, True),
]
IN_RESUMING = [
    (StateStore, "forget_after", 1, False),
    (StateStore, "forget_after", 1, True),
    (checkpoint, "restore", 1, True),
    (os, "truncate", 1, True),
    (os, "truncate", 2, True),
]


def deadly(place):
    """From now on in this process, be killed at that call."""
    owner, name, number, after = place
    original, calls = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def killed_at(place, folder, name):
    def action():
        deadly(place)
        start(name, folder).run()

    child = alone(action)
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "place", PLACES, ids=lambda p: f"{p[0].__name__}.{p[1]}-{p[2]}-{'after' if p[3] else 'before'}"
)
def test_a_run_killed_in_this_place_ends_as_if_it_had_been_left_alone(place, tmp_path, undisturbed):
    killed_at(place, tmp_path, "lbgm+topk")
    run = start("lbgm+topk", tmp_path, processes=2)
    run.run()
    assert evidence(run) == undisturbed["lbgm+topk"] and run.notes == []
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"round-0000000{n}.{kind}" for n in (8, 9) for kind in ("json", "safetensors")}


@pytest.mark.parametrize("round", [4, 5, 6, 7])
def test_a_run_killed_within_an_epoch_of_subspaces_ends_as_if_it_had_been_left_alone(round, tmp_path, undisturbed):
    """Finals of the epochs before, s, its momentum and the matrices of the epoch are all there again."""
    killed_at((RunFolder, "log", round, True), tmp_path, "time-varying")
    run = start("time-varying", tmp_path, processes=2)
    assert run.server.round == round - (2 - round % 2), "the last checkpoint before"
    run.run()
    assert evidence(run) == undisturbed["time-varying"] and run.notes == []


def test_a_run_killed_while_it_resumes_ends_as_if_it_had_been_left_alone(tmp_path, undisturbed):
    killed_at((Server, "step", 5, True), tmp_path, "topk")
    for place in IN_RESUMING:
        killed_at(place, tmp_path, "topk")
    run = start("topk", tmp_path)
    run.run()
    assert evidence(run) == undisturbed["topk"]


def test_a_killed_worker_ends_the_run_and_the_run_can_be_resumed(tmp_path, undisturbed):
    def watch(report):
        if report.round == 5:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(FewbitsError, match="can be resumed"):
        start("lbgm+topk", tmp_path, processes=3).run(watch)
    run = start("lbgm+topk", tmp_path, processes=3)
    assert run.server.round == 4, "the last checkpoint before the accident, or the round that was whole"
    run.run()
    assert evidence(run) == undisturbed["lbgm+topk"]


@pytest.mark.parametrize(
    "place", [(Server, "accept"), (Server, "step"), (Pool, "settle"), (Pool, "evaluate"), (Ledger, "flush")]
)
def test_an_interruption_within_a_round_leaves_no_half_of_it(place, tmp_path, undisturbed, monkeypatch):
    owner, name = place
    original, calls = getattr(owner, name), [0]

    def interrupted(*args):
        calls[0] += 1
        result = original(*args)
        if calls[0] == 3:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        run = start("predict, sampled", tmp_path)
        with pytest.raises(KeyboardInterrupt):
            run.run()
        with pytest.raises(LocalError, match="make a new one"):
            run.run()
    run = start("predict, sampled", tmp_path)
    run.run()
    assert evidence(run) == undisturbed["predict, sampled"]


def test_workers_ahead_of_an_interrupted_server_end_by_themselves(tmp_path, monkeypatch):
    pools, children, begin = [], [], Pool._start

    def started(self):
        pools.append(self)
        begin(self)

    def interrupted(*_):
        children.extend(multiprocessing.active_children())
        while any(ring._free.get_value() for ring in pools[0]._rings):
            os.sched_yield()  # until no worker has room for another frame
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "_start", started)
    monkeypatch.setattr(Server, "accept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        federation(dense(), tmp_path, processes=2, task=task(30)).run()
    assert [child.exitcode for child in children] == [0, 0]


def test_stopping_leaves_a_checkpoint_of_the_round_that_ended(tmp_path, undisturbed):
    run = start("predict, sampled", tmp_path, checkpoint_every=100)
    reports = []
    run.run(reports.append, stop=lambda: len(reports) == 3)
    assert run.server.round == 3 and checkpoint.rounds(tmp_path / "checkpoints") == [3]
    run.run()  # the same object goes on, too
    assert evidence(run) == undisturbed["predict, sampled"]


def test_what_watch_raises_leaves_a_checkpoint_of_the_round_that_ended(tmp_path, undisturbed):
    def watch(report):
        if report.round == 5:
            raise OSError("the screen is gone")

    with pytest.raises(OSError, match="the screen is gone"):
        start("topk", tmp_path, checkpoint_every=100).run(watch)
    run = start("topk", tmp_path, checkpoint_every=100)
    assert run.server.round == 5 and [r.round for r in run.reports] == [1, 2, 3, 4, 5]
    result = run.run()
    assert evidence(run) == undisturbed["topk"] and [r.round for r in result.reports] == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("name", METHODS)
def test_processes_rounds_and_checkpoints_may_change_between_the_parts_of_a_run(name, tmp_path, undisturbed):
    for rounds, processes, every in ((2, 3, 1), (3, 1, 5), (5, 2, 1), (6, 4, 3), (ROUNDS, 1, 2)):
        run = start(name, tmp_path, rounds=rounds, processes=processes, checkpoint_every=every)
        run.run()
        assert run.server.round == rounds
    assert evidence(run) == undisturbed[name]


def test_a_finished_run_resumed_is_there_again_and_plays_nothing(tmp_path, undisturbed):
    first = start("topk", tmp_path).run()
    again = start("topk", tmp_path)
    result = again.run()
    assert evidence(again) == undisturbed["topk"]
    assert result.reports == first.reports and result.ledger.frame_bytes == first.ledger.frame_bytes


@pytest.mark.parametrize(
    "other, named",
    [
        ({"method": build("lbgm", {"threshold": "0.3"})}, "method"),
        ({"per_round": 2}, "clients per round"),
        ({"task": task(local=LocalSGD(lr=0.2))}, "local training"),
        ({"task": task(clients=5)}, "clients: 6 with"),
        ({"key": KEY.fold("other")}, "key"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_as_it_is(other, named, tmp_path):
    federation(lbgm(), tmp_path, rounds=2).run()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    run = federation(lbgm(), rounds=3)
    settings = {"task": run.task, "method": run.method, "schedule": run.schedule, "key": run.key} | other
    settings["schedule"] = replace(run.schedule, per_round=settings.pop("per_round", None))
    with pytest.raises(LocalError, match=f"holds another run; its {named}"):
        Federation(folder=tmp_path, **settings)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before


def test_a_folder_of_another_model_is_refused(tmp_path):
    federation(dense(), tmp_path, rounds=2).run()
    with pytest.raises(LocalError, match=r"holds another run; its initial model: 910 numbers, .*got 985 numbers"):
        federation(dense(), tmp_path, rounds=3, task=task(model=lambda: mlp(13)))


# --- damaged checkpoints ---


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that stopped after round 7, with checkpoints of rounds 4 and 7."""
    folder = tmp_path_factory.mktemp("stopped")
    run = start("lbgm+topk", folder, checkpoint_every=4)
    run.run(stop=lambda: run.server.round == 7)
    assert checkpoint.rounds(folder / "checkpoints") == [4, 7]
    return folder


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "a bit of the tensors": lambda tensors, note: flip(tensors),
    "a bit of the tensors' header": lambda tensors, note: flip(tensors, 0.001),
    "tensors cut short": lambda tensors, note: os.truncate(tensors, 1000),
    "no bytes of tensors": lambda tensors, note: os.truncate(tensors, 0),
    "no tensors": lambda tensors, note: tensors.unlink(),
    "a bit of the note": lambda tensors, note: flip(note),
    "a note cut short": lambda tensors, note: os.truncate(note, 50),
    "a note that is no table": lambda tensors, note: note.write_text("[]"),
    "a note without a digest": lambda tensors, note: note.write_text("{}"),
    "a note that is no text": lambda tensors, note: note.write_bytes(b"\xff\xfe"),
    "another round's tensors": lambda tensors, note: shutil.copy(str(tensors).replace("7.", "4."), tensors),
    "another round's note": lambda tensors, note: shutil.copy(str(note).replace("7.", "4."), note),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(kind, tmp_path, stopped, undisturbed):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    tensors = folder / "checkpoints" / "round-00000007.safetensors"
    DAMAGE[kind](tensors, tensors.with_suffix(".json"))
    run = start("lbgm+topk", folder)
    assert run.server.round == 4 and len(run.notes) == 1 and str(tensors) in run.notes[0]
    assert checkpoint.rounds(folder / "checkpoints") == [4], "the other was set aside"
    assert start("lbgm+topk", folder).notes == [], "it is complained about once"
    run.run()
    assert evidence(run) == undisturbed["lbgm+topk"]


def test_a_missing_note_is_a_checkpoint_that_was_never_finished(tmp_path, stopped, undisturbed):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / "checkpoints" / "round-00000007.json").unlink()
    run = start("lbgm+topk", folder, processes=2)
    assert run.server.round == 4 and run.notes == []
    run.run()
    assert evidence(run) == undisturbed["lbgm+topk"]


def test_no_flipped_bit_of_a_note_goes_unnoticed(tmp_path, stopped):
    whole = (stopped / "checkpoints" / "round-00000007.json").read_bytes()
    server = start("lbgm+topk", None).server
    for at in range(0, len(whole), 3):
        folder = tmp_path / str(at)
        shutil.copytree(stopped / "checkpoints", folder)
        flip(folder / "round-00000007.json", at / len(whole))
        note, complaints = checkpoint.restore(folder, server)
        assert note is not None and note.round == 4 and len(complaints) == 1


def test_without_a_sound_checkpoint_the_run_is_refused_with_all_their_names_and_nothing_is_lost(tmp_path, stopped):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for number in (4, 7):
        flip(folder / "checkpoints" / f"round-0000000{number}.safetensors")
    before = {p: p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}
    with pytest.raises(
        LocalError, match=r"no checkpoint is sound.*round-00000007\.safetensors.*round-00000004\.safetensors"
    ):
        start("lbgm+topk", folder)
    assert {p: p.read_bytes() for p in folder.rglob("*.*") if p.is_file()} == before


@pytest.mark.parametrize("log", ["ledger.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("lost", ["all", "an end"])
def test_a_log_that_lost_what_belongs_to_the_checkpoint_is_named(log, lost, tmp_path, stopped):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    if lost == "all":
        (folder / log).unlink()
    else:
        os.truncate(folder / log, 10)
    with pytest.raises(LocalError, match=f"{log} is shorter than its checkpoint says"):
        start("lbgm+topk", folder)


def test_a_checkpoint_holds_all_that_the_server_is(tmp_path):
    run = start("lbgm, FedAdam", tmp_path)
    run.run(stop=lambda: run.server.round == 5)
    run.server.rejected = {3: 2}
    run._save()
    other = start("lbgm, FedAdam", None).server
    note, _ = checkpoint.restore(tmp_path / "checkpoints", other)
    server = run.server
    assert (note.round, note.sizes["ledger.jsonl"]) == (5, (tmp_path / "ledger.jsonl").stat().st_size)
    assert (other.round, other.versions, other.rejected) == (5, server.versions, {3: 2})
    assert model_bytes(other.model) == model_bytes(server.model)
    assert (
        all(torch.equal(a, b) for a, b in zip(other.public.moments, server.public.moments, strict=True))
        and len(server.public.moments) == 2
    )
    assert other.broadcast.dump() == server.broadcast.dump() and other.broadcast.version == server.broadcast.version
    assert all(torch.equal(x, server.broadcast.value[k]) for k, x in other.broadcast.value.items())


def test_metrics_are_lines_of_json_that_end_with_the_round(tmp_path):
    run = start("topk", tmp_path, rounds=3)
    run.run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
    assert [vars(r) for r in run.reports] == [json.loads(line) for line in lines]


# --- ends whose header is newer than their state ---


def look_back():
    """A sender that recycles multiples of its first vector: its state stays as it was."""
    return Sender(LookBack(chain(Raw()), threshold=0.5), Spec((8,)), KEY)


def play(sender, store, round, factor):
    """One round of one worker: load, send, store."""
    before = ends.restore(store, 3, "client.up")
    if before:
        sender.load(before)
    sender.send(factor * torch.arange(1.0, 9.0))
    sender.commit()
    ends.save(store, 3, "client.up", round, sender.pieces_of_dump(), before)
    return sender.dump()


def versions(folder, part):
    """By owner: the rounds of a part's rows, in all files of a store."""
    found = {}
    for path in folder.glob("states-*.sqlite"):
        with closing(sqlite3.connect(path)) as file:
            for owner, round in file.execute("SELECT owner, round FROM states WHERE part=?", (part,)):
                found.setdefault(owner, []).append(round)
    return {owner: sorted(rounds) for owner, rounds in found.items()}


@pytest.fixture
def stores(tmp_path):
    """Two writers of one folder."""
    for writer in "ab":
        StateStore(tmp_path, writer=writer).close()
    pair = [StateStore(tmp_path, writer=writer) for writer in "ab"]
    yield pair
    for store in pair:
        store.close()


def test_a_header_and_a_state_of_two_writers_make_the_right_end(tmp_path, stores):
    first, second = stores
    sender = look_back()
    play(sender, second, 1, 1.0)
    second.commit()
    expected = play(sender, first, 2, 2.0)
    first.commit()
    assert versions(tmp_path, "client.up") == {3: [1, 2]} and versions(tmp_path, "client.up.state") == {3: [1]}
    for store in stores:
        assert ends.restore(store, 3, "client.up") == expected
    again = look_back()
    again.load(expected)
    assert again.sequence == 2 and again.send(torch.ones(8)) == sender.send(torch.ones(8))


@pytest.mark.parametrize("committed", [False, True])
def test_a_round_in_which_only_the_header_was_stored_can_be_taken_back(committed, tmp_path, stores):
    first, second = stores
    sender = look_back()
    expected = play(sender, second, 1, 1.0)
    second.commit()
    play(sender, first, 2, 2.0)
    if committed:
        first.commit()
    ends.rollback(first, 2, [3], "client.up")
    first.commit()
    assert versions(tmp_path, "client.up") == versions(tmp_path, "client.up.state") == {3: [1]}
    for store in stores:
        assert ends.restore(store, 3, "client.up") == expected
    sender.load(expected)
    assert play(sender, first, 2, 3.0) == ends.restore(first, 3, "client.up")


def test_a_killed_run_with_headers_newer_than_their_states_ends_as_if_it_had_been_left_alone(tmp_path, monkeypatch):
    name = "lbgm, mostly recycled"
    monkeypatch.setitem(METHODS, name, (build("lbgm", {"threshold": "0.8"}), {}))
    undisturbed = start(name, tmp_path / "left alone")
    undisturbed.run()
    folder = tmp_path / "killed"
    killed_at((RunFolder, "log", 6, True), folder, name)  # the last checkpoint is that of round 4
    for part in ("client.up", "server.up"):
        headers = versions(folder / "states", part)
        states = versions(folder / "states", part + ends.STATE)
        assert all(rounds[-1] == 6 for rounds in headers.values())
        assert any(rounds[-1] < 4 for rounds in states.values()), "a header goes back, its state stays"
        assert any(rounds[-1] > 4 for rounds in states.values()), "both go back, to different rounds"
    run = start(name, folder, processes=2)
    assert run.server.round == 4
    for part in ("client.up", "server.up"):
        assert {rounds[-1] for rounds in versions(folder / "states", part).values()} == {4}
        assert {rounds[-1] for rounds in versions(folder / "states", part + ends.STATE).values()} == {1}
    run.run()
    assert evidence(run) == evidence(undisturbed) and run.notes == []
