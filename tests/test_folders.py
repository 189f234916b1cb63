"""A folder holds one thing: every writer refuses what another left there, names it, and changes nothing."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fewbits as fb
from digits_task import federation
from fewbits.cli.app import app
from fewbits.methods import dense

DATA = ["--data", "digits", "--rounds", "1"]
RING = ["--nodes", "4", "--topology", "ring"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(8, 3), torch.arange(8) % 2) for _ in range(3)]


def command(*words: object) -> None:
    result = CliRunner().invoke(app, [*map(str, words)])
    if result.exit_code == 2:
        raise fb.LocalError(" ".join(result.output.split()))
    assert not result.exit_code, result.output


def flower(folder: Path) -> None:
    pytest.importorskip("flwr")
    from flwr.app import ArrayRecord

    from fewbits.engines.flower import Federated

    strategy = Federated(dense(), 1, state=folder, evaluate=0.0)
    grid = SimpleNamespace(get_node_ids=lambda: [1], run=SimpleNamespace(run_id=1))
    strategy.start(grid, ArrayRecord(model().state_dict()), num_rounds=0)  # pyright: ignore[reportArgumentType]


def other(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")


WRITERS = {
    "Federation": lambda folder: federation(dense(), folder, rounds=1).run(),
    "federate": lambda folder: fb.federate(model(), data(), "dense", 1, out=folder),
    "fb.gossip": lambda folder: fb.gossip(model(), data(), fb.topology.ring(3), "dsgd", 1, out=folder),
    "fb.compare": lambda folder: fb.compare(model(), data(), ["dense"], rounds=1, out=folder),
    "train": lambda folder: command("train", "--method", "dense", "--clients", 2, *DATA, "--out", folder),
    "compare": lambda folder: command("compare", "--methods", "dense", "--clients", 2, *DATA, "--out", folder),
    "gossip": lambda folder: command("gossip", "--method", "dsgd", *RING, *DATA, "--out", folder),
    "flower": flower,
}
REFUSE_ONLY = {
    "diagnose": lambda folder: command("diagnose", "--data", "digits", "--epochs", 1, "--out", folder),
    "flower app": lambda folder: command("flower", "new", folder),
}
SAID = {
    "fb.compare": r"a comparison by fb\.compare \(dense-seed0\)",
    "train": r"config\.json|already holds a run|another run; its",
    "compare": r"compare\.json|already holds a comparison",
    "gossip": r"compare\.json|already holds a comparison",
    "flower": r"a run of a server on Flower \(run\)",
    "other": r"other files \(thesis\.tex\)",
}
RUNS = r"another run; its|a run of a call, such as fb\.federate|a run without config\.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder by each writer."""
    root = tmp_path_factory.mktemp("made")
    for name in ("Federation", "federate", "fb.gossip", "fb.compare", "train", "flower"):
        WRITERS[name](root / name)
    other(root / "other")
    # What these commands leave, made cheaply:
    shutil.copytree(root / "fb.compare", root / "compare")
    shutil.copytree(root / "fb.gossip", root / "gossip" / "dsgd-seed0")
    for name in ("compare", "gossip"):
        (root / name / "compare.json").write_text('{"topology": "ring"}' if name == "gossip" else "{}")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", [*WRITERS, "other"])
def test_no_writer_writes_into_what_another_left(there, made):
    folder = made / there
    before = contents(folder)
    for name, write in (WRITERS | REFUSE_ONLY).items():
        if name == there:
            continue
        said = "not an empty folder" if name == "flower app" else SAID.get(there, RUNS)
        with pytest.raises(fb.FewbitsError, match=said) as error:
            write(folder)
        assert folder.name in str(error.value), name
        after = contents(folder)
        assert {n: x for n, x in after.items() if n != "lock"} == {n: x for n, x in before.items() if n != "lock"}, name


@pytest.mark.parametrize("name", ["Federation", "federate", "fb.gossip", "fb.compare", "flower"])
def test_every_writer_takes_its_own_folder_again(name, made):
    WRITERS[name](made / name)
