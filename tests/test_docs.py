"""The pages: their links lead somewhere, their code names what exists, and nothing is left to be filled in."""

import re
from pathlib import Path

import pytest

import fewbits

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("papers/**/README.md")),
]
PROGRAMS = [path for folder in ("examples", "papers", "benchmarks") for path in sorted(ROOT.glob(f"{folder}/**/*.py"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")
NAME = re.compile(r"\bfb\.(\w+(?:\.\w+)*)")
LEFT_OPEN = re.compile(
    r"^\W*[A-Z][A-Z_]{3,}\W*$|\b(?:DEMO_TABLE|TABLES|NOTES|RECYCLING|TODO|TBD|FIXME|XXX)\b", re.MULTILINE
)


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text()))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file(page):
    targets = [target.partition("#")[0] for target in LINK.findall(prose(page)) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def unknown_names(text):
    """Each `fb.a.b` in the text that is not public."""
    unknown = []
    for path in NAME.findall(text):
        first, *rest = path.split(".")
        thing = getattr(fewbits, first, None) if first in fewbits.__all__ else None
        for name in rest:
            thing = None if name.startswith("_") else getattr(thing, name, None)
        if thing is None:
            unknown.append(f"fb.{path}")
    return unknown


@pytest.mark.parametrize("page", [*PAGES, *PROGRAMS], ids=name_of)
def test_code_names_what_is_public(page):
    assert unknown_names(page.read_text()) == []


def test_docstrings_and_messages_name_what_is_public():
    texts = {name_of(path): path.read_text() for path in sorted(ROOT.glob("src/**/*.py"))}
    assert {name: unknown_names(text) for name, text in texts.items() if unknown_names(text)} == {}


def test_a_name_that_is_not_public_is_noticed():
    assert unknown_names("fb.chain(fb.codecs.Threshold(1.0)), fb.Threshold(1.0), fb.codecs.base.Codec") == [
        "fb.Threshold"
    ]


def test_the_readme_has_code_and_a_diff():
    assert {"python", "diff"} <= {kind for kind, _ in BLOCK.findall(README.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_is_left_to_be_filled_in(page):
    assert [found.group().strip() for found in LEFT_OPEN.finditer(prose(page))] == []
