"""The page on architecture tells of the floors that there are."""

import re
from pathlib import Path

from test_floors import FLOORS

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
HEAD = "| rooms | what they hold |\n|---|---|\n"


def test_the_table_of_floors_is_the_one_that_imports_are_held_to():
    _, head, table = PAGE.read_text().partition(HEAD)
    rows = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()]
    assert head and [re.findall(r"`([^`]+)`", row) for row in rows] == FLOORS
