"""A run whose clients' states are lost or damaged is refused, with file and client; it never goes on with others."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from digits_task import evidence, federation, task
from fewbits import LocalError, LocalTraining
from fewbits.links import StateStore
from fewbits.methods import build

ADAM = LocalTraining(lambda parameters: torch.optim.Adam(parameters, 1e-3), keep_optimizer=True)
RUNS = {
    "topk": (build("topk"), {}, ["client.up", "server.up"]),
    "scaffold": (build("scaffold"), {}, ["client.kept"]),
    "fedper": (build("fedper"), {}, ["client.kept"]),
    "own": (build("topk", {"down": "own4"}), {}, ["client.held", "server.held"]),
    "adam": (build("dense"), {"local": ADAM}, ["client.optimizer"]),
}
PARTS = [(name, part) for name, (_, _, parts) in RUNS.items() for part in parts]


def start(name, folder, rounds=4, processes=1):
    method, settings, _ = RUNS[name]
    return federation(method, folder, rounds=rounds, processes=processes, task=replace(task(), **settings))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder of two rounds, and the evidence of a run of four, by name."""

    class Found(dict):
        def __missing__(self, name):
            folder = tmp_path_factory.mktemp("stopped")
            start(name, folder / "two", 2).run()
            alone = start(name, folder / "four")
            alone.run()
            self[name] = folder / "two", evidence(alone)
            return self[name]

    return Found()


def change(folder, statement, *values):
    """Execute a statement in every file of states."""
    for path in sorted((folder / "states").glob("states-*.sqlite")):
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(statement, values)


def of_client(folder):
    return folder / "states" / "states-0.sqlite"


LOST = {
    "no folder": lambda folder: shutil.rmtree(folder / "states"),
    "no file of a worker": lambda folder: of_client(folder).unlink(),
    "no file of the server": lambda folder: (folder / "states" / "states-server.sqlite").unlink(),
    "an empty file": lambda folder: os.truncate(of_client(folder), 0),
    "no table": lambda folder: change(folder, "DROP TABLE states"),
    "no rows": lambda folder: change(folder, "DELETE FROM states"),
    "no rows of a client": lambda folder: change(folder, "DELETE FROM states WHERE owner=4"),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", LOST)
def test_a_run_without_the_states_of_its_clients_is_refused_until_they_are_back(kind, processes, tmp_path, stopped):
    folder, alone = stopped["topk"]
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    LOST[kind](run)
    several = "1 of the 6" if kind == "no rows of a client" else "6 of the 6"
    one = r"(client|server)\.up of client " + ("4" if kind == "no rows of a client" else "0")
    for _ in range(2):
        with pytest.raises(LocalError, match=rf"run/states: states of {several} clients .* such as {one}\. .*put the"):
            start("topk", run, processes=processes).run()
    shutil.rmtree(run / "states")
    shutil.copytree(folder / "states", run / "states")
    again = start("topk", run, processes=processes)
    again.run()
    assert evidence(again) == alone


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_one_lost_part_of_one_client_is_enough(name, part, tmp_path, stopped):
    shutil.copytree(stopped[name][0], tmp_path / "run")
    change(tmp_path / "run", "DELETE FROM states WHERE owner=3 AND part=?", part)
    with pytest.raises(LocalError, match=rf"1 of the 6 clients .* such as {part} of client 3\."):
        start(name, tmp_path / "run").run()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_all_of_its_states_goes_on_as_if_it_had_not_stopped(name, tmp_path, stopped):
    folder, alone = stopped[name]
    shutil.copytree(folder, tmp_path / "run")
    run = start(name, tmp_path / "run", processes=2)
    run.run()
    assert evidence(run) == alone


def test_a_finished_run_needs_no_states(tmp_path, stopped):
    shutil.copytree(stopped["topk"][0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "states")
    run = start("topk", tmp_path / "run", 2)
    assert run.finished and run.run().reports[-1].round == 2


def test_a_client_that_has_trained_has_no_new_model_where_its_state_is_lost(tmp_path, stopped):
    shutil.copytree(stopped["fedper"][0], tmp_path / "run")
    change(tmp_path / "run", "DELETE FROM states WHERE owner=3")
    run = start("fedper", tmp_path / "run", 2)
    assert run.client_model(2) is not None
    with pytest.raises(LocalError, match="run/states: the state of client 3, which has trained, is missing"):
        run.client_model(3)


def damage(folder, part, harm):
    """Harm what both ends and the method keep of client 3, where SQLite has it."""
    for path in sorted((folder / "states").glob("states-*.sqlite")):
        with closing(sqlite3.connect(path)) as file, file:
            where = "WHERE owner=3 AND part=?"
            for number, data in file.execute(f"SELECT rowid, data FROM states {where}", (part,)).fetchall():
                file.execute("UPDATE states SET data=? WHERE rowid=?", (harm(data), number))


OF_ANOTHER_KIND = {"a number": lambda data: 5, "a fraction": lambda data: 0.5}
DAMAGED = {
    "nothing": lambda data: b"",
    "one byte": lambda data: b"\0",
    "a bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[: len(data) // 2],
    "reversed": lambda data: data[::-1],
}
SEALED = ("client.up", "server.up", "client.kept")  # with a checksum of their own


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [(name, part, kind) for name, part in PARTS for kind in OF_ANOTHER_KIND]
    + [(name, part, kind) for name, part in PARTS if part in SEALED for kind in DAMAGED]
    + [("adam", "client.optimizer", "cut")],
)
def test_a_damaged_state_is_refused_with_its_file_and_client(name, part, kind, processes, tmp_path, stopped):
    shutil.copytree(stopped[name][0], tmp_path / "run")
    damage(tmp_path / "run", part, (OF_ANOTHER_KIND | DAMAGED)[kind])
    with pytest.raises(LocalError, match=rf"states-\w+\.sqlite: {part} of client 3 is damaged: ") as caught:
        start(name, tmp_path / "run", processes=processes).run()
    assert "Traceback" not in str(caught.value)


def test_a_state_whose_header_is_all_that_is_left_is_refused(tmp_path, stopped):
    shutil.copytree(stopped["topk"][0], tmp_path / "run")
    change(tmp_path / "run", "DELETE FROM states WHERE part='client.up.state' AND owner=3")
    with pytest.raises(LocalError, match=r"states-0\.sqlite: client\.up of client 3 is damaged: "):
        start("topk", tmp_path / "run").run()


@pytest.mark.parametrize("value", [None, "ten", 2.5])
def test_a_round_of_another_kind_is_refused(value, tmp_path):
    with closing(StateStore(tmp_path)) as states:
        states.put(1, "up", 1, b"first")
    with closing(sqlite3.connect(tmp_path / "states-0.sqlite")) as file, file:
        file.execute("ALTER TABLE states RENAME TO former")
        file.execute("CREATE TABLE states (run, owner, part, round, data)")
        file.execute("INSERT INTO states VALUES ('', 1, 'up', ?, 'x')", (value,))
    with closing(StateStore(tmp_path, writer="1")) as states:
        for ask in (lambda: states.get(1, "up"), lambda: states.fetch([1], "up")):
            with pytest.raises(LocalError, match=r"states-0\.sqlite: up of client 1 is damaged"):
                ask()
