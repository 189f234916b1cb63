"""docs/writing-an-engine.md and its example: the page's code runs, and a client may die without changing a bit."""

import copy
import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fewbits.links.bundle import unpack
from forked import Forked

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "folder_engine.py"


class KilledError(Exception):
    """The process of a client ends."""


def engine(monkeypatch):
    """The example as a module, with one initial model: threads share torch's global generator."""
    spec = importlib.util.spec_from_file_location("folder_engine", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng():
        initial = module.build()
    monkeypatch.setattr(module, "build", lambda: copy.deepcopy(initial))
    return module


def play(module, folder, rounds, deaths=frozenset()):
    """All parties in threads; `deaths`: names of files at whose writing the client dies once, and starts again."""
    put, left = module.put, set(deaths)

    def deadly(path, data):
        if path.name in left:
            left.remove(path.name)
            raise KilledError
        put(path, data)

    def client(number):
        while True:
            try:
                return module.take_part(folder, number)
            except KilledError:
                continue

    module.put = deadly
    folder.mkdir()
    with ThreadPoolExecutor(module.CLIENTS) as pool:
        parts = [pool.submit(client, number) for number in range(module.CLIENTS)]
        server = module.serve(folder, rounds)
        for part in parts:
            part.result()
    module.put = put
    assert not left
    weights = b"".join(x.numpy().tobytes() for x in server.model.state_dict().values())
    return weights, {path.name: path.read_bytes() for path in folder.glob("*.up")}


def test_the_pages_code_runs_and_learns():
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "writing-an-engine.md").read_text(), re.M | re.S)
    with torch.random.fork_rng():
        found = {}
        exec(code, found)
    assert found["server"].round == 5 and not found["server"].rejected


def test_a_client_that_dies_at_any_moment_changes_no_byte(monkeypatch, tmp_path, capsys):
    module = engine(monkeypatch)
    model, frames = play(module, tmp_path / "calm", 5)
    deaths = frozenset({"2-0.up", "3-1.up", "4-1.up", "client-2.state"})  # a frame is not sent, or not even stored
    assert play(module, tmp_path / "deadly", 5, deaths) == (model, frames)
    assert len(frames) == 15 and not capsys.readouterr().out
    first = unpack((tmp_path / "calm" / "1-0.down").read_bytes())
    assert len(first) == 1 and len(first[0]) > 4 * 804  # the whole model, once


def test_the_example_runs_in_processes_of_its_own(monkeypatch):
    """Four processes, as forks: each runs the file as the command does."""
    monkeypatch.setattr("subprocess.Popen", lambda command: Forked(command[1:], captured=False))
    run = Forked([EXAMPLE])
    out, err = run.communicate()
    assert run.returncode == 0 and not err, err
    found = re.fullmatch(r"accuracy ([\d.]+)%; ([\d,]+) bytes both ways\n", out)
    assert found is not None and float(found[1]) > 80
    assert int(found[2].replace(",", "")) < 2 * 10 * 3 * 4 * 804 / 8  # an eighth of float32
