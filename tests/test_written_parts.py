"""What pages say about methods, commands, names and results is what the program says, and stands in the repository."""

import importlib
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import field_pages  # noqa: E402
import name_pages  # noqa: E402
import written_parts  # noqa: E402

COMMAND = "python docs/_ext/written_parts.py"


def name_of(page):
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", written_parts.pages(), ids=name_of)
def test_a_page_says_what_the_program_says(page):
    text = page.read_text()
    assert written_parts.written(text) == text, f"run: {COMMAND}"


def test_the_reference_has_a_part_for_every_module_and_catalogue():
    found = {
        match.group(2, 3) for page in written_parts.pages() for match in written_parts.PART.finditer(page.read_text())
    }
    modules = {("names", page.stem) for page in (DOCS / "reference" / "api").glob("*.md")}
    assert len(modules) > 10
    assert found >= modules | {("methods", None), ("gossip", None), ("commands", None)}


def test_every_mark_belongs_to_a_part():
    for page in DOCS.rglob("*.md"):
        text, parts = page.read_text(), list(written_parts.PART.finditer(page.read_text()))
        assert text.count("<!-- written:") == text.count("<!-- end -->") == len(parts), name_of(page)


@pytest.mark.parametrize(
    "name", ["Result", "RoundReport", "Comparison", "Row", "Record", "GossipResult", "GossipReport"]
)
def test_a_table_has_every_field_and_property_of_its_class(name):
    kind = getattr(importlib.import_module("fewbits.simulation"), name)
    table = field_pages.fields(f"fewbits.simulation.{name}")
    properties = [key for key, value in vars(kind).items() if isinstance(value, property)]
    assert is_dataclass(kind)
    for key in [*(field.name for field in fields(kind)), *properties]:
        assert f"\n| `{key}` | `" in table
    assert f"fields fewbits.simulation.{name} -->" in (DOCS / "reference" / "results.md").read_text()


class Measured:
    """For the tests below."""

    # in metres,
    # from the ground
    height: float | None  # None: in the air
    plain: int
    _hidden: int


def test_an_attribute_has_the_comments_above_and_behind_it():
    found = field_pages._attributes(Measured)
    assert found["height"] == ("float | None", "in metres, from the ground None: in the air")
    assert found["plain"] == ("int", "") and "_hidden" not in found


def test_an_attribute_that_nothing_describes_is_refused():
    with pytest.raises(LookupError, match=r"Measured\.plain has neither a comment nor a docstring"):
        field_pages.fields(f"{__name__}.Measured")


def test_a_cell_is_text_outside_its_code():
    assert field_pages.cell("a * b | `x * y`,\n  <c>") == "a \\* b \\| `x * y`, \\<c>"


def test_every_public_name_has_a_line():
    table = name_pages.overview("fewbits.codecs")
    assert len(table.splitlines()) == 2 + len(importlib.import_module("fewbits.codecs").__all__)
    assert all(not line.endswith("|  |") for line in table.splitlines())
