"""What the commands print: in files and pipes, in narrow terminals, and in encodings with few letters."""

import io
import shlex

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.cli.live import Bars, Lines, Live, Position, ProgressRow
from fewbits.cli.screen import LEAST, PLAIN, UNCUT, screen, write_anything
from fewbits.report.text import duration

QUIET = {"NO_COLOR": "1", "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
COMMANDS = [
    *("methods", "methods lbgm+topk", "methods malcom", "data", "models", "--help", "train --help", "plan --help"),
    "plan --method dense,topk,intrinsic --model mlp --data digits --clients 10 --rounds 2",
    "train --clients 4 --rounds 1 --batch-size 0 --processes 1 --out {}/run",
    "gossip --nodes 4 --rounds 1 --processes 1 --out {}/gossip",
    "diagnose --epochs 1 --limit 60 --dims 16 --blocks 1 --out {}/diagnosis",
    *(
        "train --data ±× --out {}/x",
        "train --method ünknown --out {}/x",
        "export {}/–",
        "trian",
        "flower check nowhere",
    ),
]


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def printed(command, encoding="utf-8", **environment):
    runner = CliRunner()
    runner.charset = encoding
    result = runner.invoke(app, shlex.split(command), env={"COLUMNS": None, **QUIET, **environment})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_in_ascii(command, tmp_path):
    text = printed(command.format(tmp_path), "ascii")
    assert text.strip() and text.isascii()


@pytest.mark.parametrize("command", ["methods", "plan --method topk --params 5000 --rounds 2", "export –"])
def test_letters_that_latin_1_has_stay(command):
    text = printed(command, "latin-1")
    assert text.strip() and ("×" in text or "Konecný" in text or "export" not in text)


def test_a_letter_that_is_missing_becomes_a_plain_one():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write_anything([out])
    print("5× ± – … Konečný 数 \udcff", "".join(PLAIN), file=out, flush=True)
    assert out.buffer.getvalue().startswith(b"5x +- - ... Konecny ? \xff ")


@pytest.mark.parametrize("columns", ["0", "10", "79", "80", "100"])
@pytest.mark.parametrize(
    "command", ["plan --method topk,lbgm+topk,intrinsic --rounds 2", "methods", "data", "methods topk"]
)
def test_nothing_is_cut_at_any_width(command, columns):
    text = printed(command, COLUMNS=columns)
    assert "…" not in text
    if columns in ("79", "80", "100"):
        assert max(map(len, text.splitlines())) <= max(LEAST, int(columns)) or "not planned" in text


def test_a_pipe_gets_every_column_uncut():
    text = printed("plan --method fedpara+lbgm+topk@gamma=0.1 --model mlp --data digits --rounds 2")
    assert all(word in text for word in ("server", "s per", "holds for", "gamma=0.1, all in full", "bound, random"))
    assert screen().width in (UNCUT, LEAST)


def test_a_narrow_plan_says_what_it_leaves_out():
    narrow = printed("plan --method topk,intrinsic --model mlp --data digits --rounds 2", COLUMNS="80")
    assert "--json has what does not fit here: server keeps" in narrow or "s per round" in narrow
    assert all(word in narrow for word in ("mode=time-varying", "run", "random", "fewer"))


# Progress


def lines_of(clock, rounds=100):
    out = io.StringIO()
    live = Live(Console(file=out, width=200), clock)
    assert isinstance(live._display, Lines)
    return out, live, live.row("topk", rounds)


def test_elsewhere_than_on_a_terminal_a_line_comes_first_last_and_every_ten_seconds_at_most(clock):
    out, live, row = lines_of(clock)
    with live:
        for round in range(1, 101):
            clock.now += 1.0
            row.move(Position(round, 1000 * round, 2000 * round, 0.5, float(round)))
    rounds = [int(line.split("round ")[1].split("/")[0]) for line in out.getvalue().splitlines()]
    assert rounds == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    first, *_, last = out.getvalue().splitlines()
    assert first == "topk: round 1/100, accuracy 50.00%, up 0.001 MB, down 0.002 MB, 1 s, 99 s left"
    assert last == "topk: round 100/100, accuracy 50.00%, up 0.100 MB, down 0.200 MB, 2 min"


def test_a_run_that_stops_early_shows_where(clock):
    out, live, row = lines_of(clock)
    with live:
        for round in (1, 2, 3):
            row.move(Position(round, 0, 0, None, float(round)))
    assert [line.split(",")[0] for line in out.getvalue().splitlines()] == ["topk: round 1/100", "topk: round 3/100"]


def test_every_run_of_a_comparison_begins_with_a_line(clock):
    out, live, row = lines_of(clock, rounds=1)
    row.move(Position(1, 0, 0, None, 1.0))
    live.row("dense", 5).move(Position(1, 0, 0, None, 1.0))
    assert [line.split(":")[0] for line in out.getvalue().splitlines()] == ["topk", "dense"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_has_the_time_taken_and_the_time_left(width):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, _environ={})
    bars = Bars(console)
    with bars:
        row = ProgressRow(10, bars.add("lbgm+topk", 10))
        row.move(Position(2, 3000, 4_000_000, 0.5, 20.0, "55% recycled now"))
    line = out.getvalue().split("\r")[-1]
    assert "20 s, 80 s left" in line and "50.0%" in line and "up 0.003 down  4.00 MB" in line and " 2/10 " in line
    assert ("━" in line) == ("55% recycled now" in line) == (width == 120)


def test_spans_of_time_have_the_unit_that_suits_them():
    assert [duration(x) for x in (0.2, 99, 100, 5999, 6100)] == ["0 s", "99 s", "2 min", "1 h 40 min", "1 h 42 min"]
