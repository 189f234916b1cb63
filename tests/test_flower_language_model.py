"""`fewbits flower new --template lm`: a language model with LoRA on Flower, whose table has the frames' bytes."""

import importlib
import importlib.util
import re
import sys
import tomllib

import pytest
from flwr.app import Context, RecordDict
from safetensors.torch import load_file
from typer.testing import CliRunner

from fewbits.cli.app import app as cli
from fewbits.engines.flower import envelope
from flower_task import DirectGrid, Node

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra `peft`")
CLIENTS, ROUNDS = 3, 2
ROW = re.compile(r"^ *(\d+|total) +([\d.]+) +([\d.]+)(?: +([\d.]+))?", re.MULTILINE)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, importable."""
    folder = tmp_path / "project"
    made = CliRunner().invoke(cli, ["flower", "new", str(folder), "--template", "lm"])
    assert made.exit_code == 0, made.output
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_app"]:
        del sys.modules[name]


def config_of(project, tmp_path, **changes):
    found = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert set(changes) <= set(found)
    fixed = {"clients": CLIENTS, "rounds": ROUNDS, "steps": 2, "fewbits-state": str(tmp_path / "clients")}
    return found | fixed | changes


def played(config):
    """The grid after the run."""
    client_app = importlib.import_module("lm_app.client_app").app
    nodes = {
        5 * c + 1: Node(client_app, Context(1, 5 * c + 1, {"partition-id": c}, RecordDict(), config))
        for c in range(CLIENTS)
    }
    grid = DirectGrid(nodes)
    importlib.import_module("lm_app.server_app").app(grid, Context(1, 1, {}, RecordDict(), config))
    return grid


def frames(grid):
    """Bytes of the bundles and frames of each round, as they lay in the messages."""
    found = {}
    for _, asked, replied in grid.sent:
        messages = [envelope.opened(envelope.value(content) or b"") for content in (asked, replied)]
        if messages[0].kind == "train":
            assert messages[1].kind == "train", messages[1].fields
            for way, message in zip(("down", "up"), messages, strict=True):
                of_round = found.setdefault(message.round, {"up": 0, "down": 0})
                of_round[way] += len(message.parts[0])
    return found


@pytest.mark.parametrize(
    "changes", [{}, {"method": "dense", "rank": 2}, {"per-round": 2}], ids=["4 bits", "r2", "some"]
)
def test_the_table_has_the_bytes_of_the_frames(project, tmp_path, capsys, changes):
    grid = played(config_of(project, tmp_path, **changes))
    sent, printed = frames(grid), capsys.readouterr().out
    rows = {row[0]: row[1:] for row in ROW.findall(printed)}
    assert list(rows) == ["0", "1", "2", "total"], printed
    for number, of_round in sent.items():
        _, up, down = rows[str(number)]
        assert (up, down) == (f"{of_round['up'] / 1e6:.6f}", f"{of_round['down'] / 1e6:.6f}")
    total = [f"{sum(of_round[way] for of_round in sent.values()) / 1e6:.6f}" for way in ("up", "down")]
    assert list(rows["total"][:2]) == total and "fewbits:" not in printed
    assert float(rows["2"][0]) < float(rows["0"][0])
    numbers = 8 * 2 * (4 * (32 + 32) + 3 * (32 + 64))  # of LoRA of rank 8 in two layers
    if changes.get("method") == "dense":
        assert sent[1]["up"] - CLIENTS * numbers // 4 * 4 == pytest.approx(0, abs=CLIENTS * 30)


def test_the_adapter_is_saved_where_the_server_keeps_its_state(project, tmp_path, capsys):
    played(config_of(project, tmp_path, state=str(tmp_path / "server")))
    saved = load_file(tmp_path / "server/adapter/adapter_model.safetensors")
    assert len(saved) == 2 * 14 and all("lora_" in name for name in saved)
    assert any(x.abs().sum() > 0 for name, x in saved.items() if "lora_B" in name)


def test_the_code_of_the_project_is_short(project):
    lines = [line for path in (project / "lm_app").glob("*.py") for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) <= 120
    config = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert {"model", "method", "rank", "rounds"} <= set(config)


def test_an_unknown_template_is_named(tmp_path):
    made = CliRunner().invoke(cli, ["flower", "new", str(tmp_path / "x"), "--template", "llm"])
    assert made.exit_code == 2 and "--template must be one of digits, lm; got 'llm'; did you mean 'lm'?" in made.output
    assert not (tmp_path / "x").exists()
