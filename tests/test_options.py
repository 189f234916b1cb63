"""What a user may write wrongly on the command line: each gets a sentence that says what was meant."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fewbits as fb
from fewbits.choices import nearest
from fewbits.cli.app import app
from fewbits.methods.catalogue import METHODS, layers, options
from fewbits.methods.downlink import DOWNLINKS
from fewbits.methods.gossip import GOSSIP
from fewbits.methods.gossip import options as gossip_options
from fewbits.methods.meaning import meanings


def said(command, code=2):
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("trian", "train"),
        ("Methods", "methods"),
        ("flower nwe", "new"),
        ("train --method tpok", "topk"),
        ("train --method TopK", "topk"),
        ("train --method topk+lbgm", "lbgm+topk"),
        ("train --method LBGM+TopK", "lbgm+topk"),
        ("train --method 'lbgm + topk'", "lbgm+topk"),
        ("train --method topk+fedpara+lbgm", "fedpara+lbgm+topk"),
        ("train --method masked+dp", "dp+masked"),
        ("train --method 'topk fraction=0.1 bits=8'", "topk@fraction=0.1,bits=8"),
        ("compare --methods dense,tokp", "topk"),
        ("plan --method LBGM", "lbgm"),
        ("methods fedpra+topk", "fedpara+topk"),
        ("gossip --method Malcom", "malcom"),
        ("gossip --topology rin", "ring"),
        ("train --data Digit", "digits"),
        ("train --model rsenet8", "resnet8"),
        ("plan --model MLP", "mlp"),
        ("train --split Dirichle:0.5", "dirichlet:0.5"),
        ("compare --methods dense --split class:2", "classes:2"),
        ("train --method topk --set down=Delta8", "delta8"),
        ("diagnose --basis fast-food --out x", "fastfood"),
    ],
)
def test_a_name_that_is_nearly_right_gets_one_suggestion(command, meant):
    text = said(command)
    assert text.lower().count("did you mean") == 1 and repr(meant) in text


def test_a_name_like_no_other_gets_no_suggestion():
    assert "did you mean" not in said("train --method qqq") and nearest("qqq", METHODS) is None


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train --steps 3 --epochs 2", "--steps or --epochs, not both"),
        ("compare --methods dense --epochs 1 --steps 1", "--steps or --epochs, not both"),
        ("plan --params 100 --model mlp", "--params or --model, not both"),
        ("plan --shapes x.json --model cnn", "--shapes or --model, not both"),
        ("plan --params 100 --data digits", "--params or --data, not both"),
        ("plan --params 0", "params must be a whole number, 1 or more; got 0"),
        *(
            (f"{command} --clients 0", "clients must be a whole number, 1 or more; got 0")
            for command in ("train", "plan")
        ),
        ("gossip --nodes 0", "nodes must be a whole number, 1 or more; got 0"),
        ("plan --clients 3 --per-round 4", "per_round is 4, but there are 3 clients"),
        ("plan --rounds 0", "rounds must be a whole number, 1 or more; got 0"),
        *((f"compare --methods {text}", "an entry is empty") for text in ("dense,,topk", "dense,", ",dense", ",")),
        ("plan --method dense,,topk", "an entry is empty"),
        ("gossip --methods malcom,", "an entry is empty"),
        ("train --method topk@fraction=0.1,", "an entry is empty"),
        ("compare --methods dense --seeds 0,,1", "seeds must be whole numbers separated by commas"),
        ("compare --methods dense --seeds 0,1,", "seeds must be whole numbers separated by commas"),
        ("compare --methods dense --seeds ''", "give one or more seeds"),
        ("compare --methods ''", "give one or more methods"),
        ("diagnose --dims 16,,32 --out x", "--dims must be whole numbers separated by commas"),
        ("train --device mps", "device is mps, but torch sees no MPS"),
        ("train --device meta --processes 1", "device must be cpu, cuda, cuda:1, mps or so; got 'meta'"),
        ("train --device cpu:5", "torch sees 1 such here"),
        ("train --lr -1", "lr must be a finite number above 0; got -1.0"),
        ("train --momentum 1", "momentum must be a number in [0, 1); got 1.0"),
        # without --out, too:
        ("train --method topk --set fraction=2", "fraction must be a number in (0, 1]; got 2.0"),
        ("compare --methods topk@fraction=2", "fraction must be a number in (0, 1]; got 2.0"),
        ("gossip --method malcom@mu=-1", "mu must be"),
        ("train --split classes", "split must be iid"),
        ("train", "give --out"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(command, sentence, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    text = said(command)
    assert sentence in text and text.startswith("fewbits: ") and list(tmp_path.iterdir()) == []


def test_the_version_is_said():
    for option in ("--version", "-V"):
        assert said(option, code=0) == f"fewbits {fb.__version__}\n"


def test_exit_codes_are_those_of_the_page(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "reference" / "command-line.md").read_text()
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "130"]
    (tmp_path / "text").write_text("no frame" * 9)
    (tmp_path / "empty").touch()
    for name in ("text", "empty"):
        assert "fewbits: " in said(f"inspect {tmp_path / name}", code=1)
    missing = ("inspect {}/none", "inspect {}", "export {}", "train --resume {}/none", "methods none", "none", "--none")
    for command in missing:
        said(command.format(tmp_path), code=2)


@pytest.mark.parametrize("name", [*METHODS, "fedpara+lbgm+topk", "dp+topk", "intrinsic+lbgm", *GOSSIP])
def test_every_option_of_every_method_has_a_meaning(name):
    known, makers = (gossip_options(name), [GOSSIP[name]]) if name in GOSSIP else (options(name), layers(name))
    said_here = meanings(makers)
    assert [option for option in known if not said_here.get(option)] == []
    text = said(f"methods {name}", code=0)
    assert all(option in text and said_here[option].split("`")[0] in text for option in known)


def test_the_methods_are_listed_with_a_way_to_their_options():
    assert "fewbits methods NAME" in said("methods", code=0)


@pytest.mark.parametrize("name", ["down", "own4"])
def test_every_downlink_has_a_meaning(name):
    text = " ".join(said(f"methods {name}", code=0).split())
    assert all(what.split(",")[0] in text for what in DOWNLINKS.values())


@pytest.fixture
def comparison(tmp_path):
    small = "--clients 3 --rounds 1 --batch-size 0 --processes 1"
    said(f"compare --methods dense,topk {small} --out {tmp_path}", code=0)
    return tmp_path


def test_advice_about_a_folder_names_the_command_that_made_it(comparison):
    assert f"a comparison; continue it with fewbits compare --resume {comparison}" in said(f"train --out {comparison}")
    assert f"fewbits train --resume {comparison}/topk-seed0" in said(f"train --out {comparison}/topk-seed0")
    assert "it is a comparison" in said(f"train --resume {comparison}")
    assert f"it is one run: fewbits train --resume {comparison}/topk" in said(
        f"compare --resume {comparison}/topk-seed0"
    )


def test_force_over_a_comparison_leaves_nothing_of_its_runs(comparison):
    (comparison / "dense-seed0" / "mine").write_text("")
    said(f"train --clients 3 --rounds 1 --batch-size 0 --processes 1 --out {comparison} --force", code=0)
    assert [path.name for path in (comparison / "dense-seed0").iterdir()] == ["mine"]
    assert not (comparison / "topk-seed0").exists() and not (comparison / "compare.json").exists()
