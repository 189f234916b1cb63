"""Output that a page prints is the program's: the commands of its console blocks are run as they stand there."""

import math
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewbits.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "plan.md", ROOT / "docs" / "diagnose.md"]
BLOCK = re.compile(r"^```console\n\$ fewbits (.*)\n((?:.*\n)*?)```$", re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
PROGRESS = re.compile(r".*: epoch \d+/\d+|fewbits: compiling")
TIME = re.compile(r"after \d+ s")


def blocks():
    return [
        pytest.param(command, printed, id=f"{page.name}: {command.split()[0]}")
        for page in PAGES
        for command, printed in BLOCK.findall(page.read_text())
    ]


def lines_of(text):
    """Without spaces at the end, empty lines at the end, times, and progress bars."""
    lines = [
        line.rstrip()
        for line in TIME.sub("after N s", text.replace("\N{NO-BREAK SPACE}", " ")).splitlines()
        if "━" not in line and not PROGRESS.match(line)
    ]
    return "\n".join(lines).strip("\n").splitlines()


def numbers_of(line):
    return [float(text.replace(",", "")) for text in NUMBER.findall(line)]


def test_every_page_prints_some_output():
    assert {page.name for page in PAGES if BLOCK.search(page.read_text())} == {"plan.md", "diagnose.md"}


@pytest.mark.parametrize(("command", "printed"), blocks())
def test_printed_output_is_the_programs(command, printed, tmp_path, monkeypatch):
    """Word for word; figures of trainings may differ a little between processors."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    found, expected = lines_of(result.output), lines_of(printed)
    if command.startswith("plan"):
        assert found == expected
        return
    spaces = re.compile(r"\s+")
    words = [[spaces.sub(" ", NUMBER.sub("N", line)).strip() for line in lines] for lines in (found, expected)]
    assert words[0] == words[1]
    for one, other in zip(found, expected, strict=True):
        assert all(
            math.isclose(a, b, rel_tol=0.1, abs_tol=0.1)
            for a, b in zip(numbers_of(one), numbers_of(other), strict=True)
        ), one


def test_each_forecast_of_the_pages_small_table_is_the_programs():
    page = (ROOT / "docs" / "plan.md").read_text()
    ((command, printed),) = BLOCK.findall(page)
    stated = re.findall(r"\| forecast, (\d+) rounds: .* \| (\S+) kB \| (\S+) kB \|", page)
    assert [rounds for rounds, *_ in stated] == ["100", "34"] and "--rounds 100" in command
    shorter = command.replace("--rounds 100", "--rounds 34").replace("dense,topk,lbgm,intrinsic", "topk")
    result = CliRunner().invoke(app, shlex.split(shorter), env={"COLUMNS": "100", "NO_COLOR": "1"})
    for (_, up, down), text in zip(stated, (printed, result.output), strict=True):
        (row,) = re.findall(r"^ topk .*$", text, re.MULTILINE)
        assert row.split()[1:5] == [up, "kB", down, "kB"]


def test_a_stale_number_is_noticed():
    page = (ROOT / "docs" / "plan.md").read_text()
    ((_, printed),) = BLOCK.findall(page)
    assert lines_of(printed) != lines_of(printed.replace("311 kB", "331 kB"))
