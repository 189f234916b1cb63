"""Where something is full, the sentence names the place and what to do."""

import errno
import multiprocessing.synchronize
import sqlite3
from contextlib import closing

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits import files
from fewbits.cli.app import app
from fewbits.engines.common.logs import append_metrics
from fewbits.engines.common.processes import CAUSES
from fewbits.links import Entry, Ledger, StateStore
from fewbits.links.store import LARGE
from forked import Forked

CLIENTS = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))] * 2


def full(*_: object, **__: object):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile:
    """A file on a full disk."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        return None

    write = writelines = full


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: FullFile())


def test_a_file_that_cannot_be_written_is_named(tmp_path, full_disk):
    with pytest.raises(fb.FewbitsError, match=r"metrics\.jsonl: No space left on device") as error:
        append_metrics(tmp_path, {"round": 1})
    assert isinstance(error.value.__cause__, OSError) and error.value.__cause__.errno == errno.ENOSPC
    with pytest.raises(fb.FewbitsError, match=r"config\.json: No space left on device"):
        files.write_atomically(tmp_path / "config.json", b"{}")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add(Entry(1, 0, "up", 48, 32))
    with pytest.raises(fb.FewbitsError, match=r"ledger\.jsonl: No space left on device"):
        ledger.flush()


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", full)
    said = CliRunner().invoke(app, ["train", "--rounds", "1", "--clients", "2", "--out", str(tmp_path / "run")])
    assert said.exit_code == 1
    assert said.output == f"fewbits: {tmp_path / 'run' / 'config.json'}: No space left on device\n"


def test_a_full_state_store_is_named(tmp_path):
    with closing(StateStore(tmp_path)) as store:
        store._writing.execute("PRAGMA max_page_count=3")
        with pytest.raises(fb.FewbitsError, match=r"states-0\.sqlite: database or disk is full") as error:
            store.put(0, "part", 1, bytes(LARGE - 1))
        assert isinstance(error.value.__cause__, sqlite3.Error)
        store._writing.execute("PRAGMA max_page_count=100000")


def test_a_full_disk_beside_a_state_store_is_named(tmp_path, monkeypatch):
    with closing(StateStore(tmp_path)) as store:
        with monkeypatch.context() as patch:
            patch.setattr("os.pwritev", full)
            with pytest.raises(fb.FewbitsError, match=r"states-0\.slots: No space left on device"):
                store.put(0, "part", 1, bytes(LARGE))
        assert store.get(0, "part") is None


@pytest.mark.parametrize("cause", CAUSES)
def test_what_worker_processes_cannot_get_is_said(cause, monkeypatch):
    class SemLock:
        def __new__(cls, *_: object, **__: object):
            raise OSError(cause, "anything")

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", SemLock)
    with pytest.raises(fb.LocalError, match=r"worker processes share cannot be made: ") as error:
        fb.federate(torch.nn.Linear(2, 2), CLIENTS, "dense", 1, processes=2)
    assert CAUSES[cause] in str(error.value)


def test_a_model_that_asks_for_more_memory_than_its_frame_is_worth_is_refused(tmp_path):
    path = tmp_path / "model.frame"
    fb.save_model({"w": torch.zeros(4)}, path)
    note = path.with_name("model.frame.json")
    note.write_text(note.read_text().replace("4", str(2**36), 1))
    with pytest.raises(fb.LocalError, match=r"asks for 274,877,906,944 bytes of memory for a frame of \d+ bytes; at"):
        fb.load_model(path)
    fb.save_model({"w": torch.ones(100)}, path)
    with pytest.raises(fb.LocalError, match=r"at most 399 are taken\. Give max_bytes=400"):
        fb.load_model(path, max_bytes=399)
    assert torch.equal(fb.load_model(path, max_bytes=400)["w"], torch.ones(100))


@pytest.mark.parametrize("shape", ['["4"]', "[4.0]", "[true]", "4", '"4"', "[1e400]", "[-1]"])
def test_a_note_with_an_odd_shape_is_refused(shape, tmp_path):
    path = tmp_path / "model.frame"
    fb.save_model({"w": torch.zeros(4)}, path)
    note = path.with_name("model.frame.json")
    text = note.read_text()
    start, end = text.index("[", text.index('"w"')), text.index("]", text.index('"w"')) + 1
    note.write_text(text[:start] + shape + text[end:])
    with pytest.raises(fb.LocalError, match="does not describe a model"):
        fb.load_model(path)


OPEN_FILES = """
import itertools, os, resource, sys, torch, fewbits as fb
data = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))] * 3
model = lambda: torch.nn.Linear(2, 2)
calls = {
    "federate": lambda out, n: fb.federate(model(), data, "lbgm", 1, processes=n, out=out),
    "gossip": lambda out, n: fb.gossip(model(), data, fb.topology.ring(3), "dsgd", 1, processes=n, out=out),
    "compare": lambda out, n: fb.compare(model(), data, ["lbgm"], [0], 1, processes=n, out=out),
}
before, refused = resource.getrlimit(resource.RLIMIT_NOFILE), dict.fromkeys(calls, 0)
for call, processes in itertools.product(calls, (1, 2)):
    calls[call](f"{sys.argv[1]}/warm-{call}-{processes}", processes)
    used, enough = max(map(int, os.listdir("/proc/self/fd"))), 0
    while os.dup(2) < used:
        pass  # no number below is free
    used += 1
    for files in range(0, 24, 3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + files, before[1]))
        try:
            calls[call](f"{sys.argv[1]}/{call}-{processes}-{files}", processes)
            enough += 1
        except fb.FewbitsError as error:
            assert "oo many open files" in str(error) or "unable to open" in str(error), error
            assert "Traceback" not in str(error), error
            refused[call] += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        if enough == 2:
            break
print(min(refused.values()))
"""


@pytest.mark.slow
def test_too_many_open_files_is_a_sentence(tmp_path):
    """Run in a process of its own, with so many files above those that are open."""
    program = tmp_path / "program.py"
    program.write_text(OPEN_FILES)
    run = Forked([program, tmp_path])
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert "Traceback" not in err
    assert int(out) > 2
