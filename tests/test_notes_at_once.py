"""What goes wrong in a round is printed when the round ends, once, and not only at the end of the run."""

import pytest
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.cli.live import NOTES_SHOWN, ProgressRow

RUN = ["--lr", "1e20", "--data", "digits", "--rounds", 7, "--processes", 1]
DIVERGES = "the run diverges: for 5 rounds no client's update could be used"


def printed(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["train", "--method", "dense", "--clients", 4], f"note: round 5: {DIVERGES}"),
        (["compare", "--methods", "dense", "--clients", 4], f"note: round 5: {DIVERGES}"),
        (["gossip", "--methods", "dsgd", "--nodes", 4, "--topology", "ring", "--evaluate-every", 1], "note: round"),
    ],
)
def test_a_note_of_a_round_stands_before_the_last_round_and_once(words, note, tmp_path):
    text = printed(*words, *RUN, "--out", tmp_path)
    assert text.index("round 1/7") < text.index(note) < text.index("round 7/7")
    lines = [line for line in text.splitlines() if line.startswith("note: ")]
    assert len(lines) == len(set(lines)) > 1


def test_a_run_that_goes_on_does_not_print_the_notes_of_its_last_round_again_at_once(tmp_path):
    printed("train", "--method", "dense", "--clients", 4, *RUN, "--out", tmp_path)
    text = printed("train", "--resume", tmp_path, "--rounds", 9)
    assert text.index("round 9/9") < text.index(DIVERGES)  # among the notes of the whole run


def test_notes_about_single_clients_are_few_and_those_about_the_run_are_all_there():
    said = []
    row = ProgressRow(9, lambda now, times: None, say=said.extend)
    of_clients = [f"round 1: client {i} was skipped: it is off" for i in range(NOTES_SHOWN + 3)]
    row.tell(of_clients[:3])
    row.tell([*of_clients[3:], "round 2: the run diverges"])
    assert said == [*of_clients[:NOTES_SHOWN], "round 2: the run diverges"]
    end = ["the budget ended the run", *of_clients, "round 2: the run diverges"]
    assert row.rest(end) == ["the budget ended the run", "the report has 3 more about single clients"]
