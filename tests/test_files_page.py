"""The page on the files of a run names every key of metrics.jsonl and ledger.jsonl, and no other."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fewbits.engines.gossip import GossipReport
from fewbits.engines.simulation import RoundReport
from fewbits.links.ledger import Entry

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "files-of-a-run.md"


@pytest.mark.parametrize(
    ("heading", "line"),
    [
        ("## A line of `metrics.jsonl`\n", RoundReport),
        ("## A line of `metrics.jsonl` of `fewbits gossip`\n", GossipReport),
        ("## A line of `ledger.jsonl`\n", Entry),
    ],
)
def test_every_key_of_a_line_is_on_the_page(heading, line):
    _, found, rest = PAGE.read_text().partition(heading)
    table = rest.partition("\n## ")[0]
    keys = [key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)]
    assert found and sorted(keys) == sorted(field.name for field in fields(line))
