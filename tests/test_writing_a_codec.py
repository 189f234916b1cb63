"""docs/writing-a-codec.md runs as printed, and its codecs are like any other: alone, in stacks, and on the wire."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits.cli.app import app
from fewbits.testing import CODEC_LAWS, as_codecs, check_codec

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-codec.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page() -> tuple[dict[str, object], list[tuple[str, str]]]:
    """The names that the page's blocks define, and each printed output beside the one that the page shows."""
    names: dict[str, object] = {"__name__": "page"}
    outputs, printed = [], ""
    for kind, body in BLOCK.findall(PAGE.read_text()):
        if kind == "text":
            outputs.append((printed, body))
            continue
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(body, PAGE.name, "exec"), names)
        printed = out.getvalue()
    return names, outputs


@pytest.fixture(scope="module")
def page():
    """The page, run once by the process that needs it: its own checks take seconds."""
    torch.manual_seed(0)
    return run_page()


@pytest.fixture(scope="module")
def codecs(page):
    """The page's codecs alone, then in stacks."""
    names, _ = page
    centre = names["Centre"]
    alone = [codec for name in ("Centre", "PartCentre") for one in names[name].examples() for codec in as_codecs(one)]
    signs = fb.chain(centre(), fb.Sign())
    return [*alone, signs, fb.ErrorFeedback(signs), fb.LookBack(centre()), fb.Delta(centre())]


def test_the_page_prints_what_it_shows(page):
    _, outputs = page
    assert len(outputs) >= 3
    assert [printed for printed, _ in outputs] == [shown for _, shown in outputs]


def test_the_test_of_the_page_passes(page):
    page[0]["test_centre"]()


TRIED = (
    "chain(PartCentre(keep=0.5))",
    "chain(PartCentre(keep=1))",
    "chain(Centre(), Sign())",
    "ErrorFeedback(chain(Centre(), Sign()))",
    "LookBack(chain(Centre()))",
    "Delta(chain(Centre()))",
)


def test_all_are_tried(codecs):
    assert tuple(map(repr, codecs)) == ("chain(Centre())", *TRIED)  # the page tries the first


@pytest.mark.parametrize("law", CODEC_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("codec", TRIED)
def test_the_examples_obey(law, codec, codecs):
    law(codecs[1 + TRIED.index(codec)])


def test_a_stack_of_the_example_is_checked_under_wrappers_too(page):
    check_codec(fb.chain(page[0]["Centre"](), fb.Sign()), fb.Spec((24,)), thorough=True)


def test_the_example_refuses_what_it_should(page):
    PartCentre = page[0]["PartCentre"]
    with pytest.raises(fb.LocalError, match="keep"):
        PartCentre(keep=2)
    with pytest.raises(fb.LocalError, match="keep"):
        PartCentre(keep=True)


def test_inspect_shows_the_header_and_builds_no_foreign_codec(page, tmp_path):
    Centre = page[0]["Centre"]
    x = torch.arange(5.0)
    (tmp_path / "frame").write_bytes(fb.Sender(fb.chain(Centre()), fb.Spec.of(x), fb.Key(0)).send(x))
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "frame")])
    assert run.exit_code == 0 and "codec hash" in run.output and "The codec is not known" in run.output
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "frame"), "--codec", "chain(Centre())", "--shape", "5"])
    assert run.exit_code == 2 and "unknown codec 'Centre'" in run.output
