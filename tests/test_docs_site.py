"""The documentation site's frame: every page is reachable, and every link has a target.

`make docs` builds the site itself, with warnings as errors.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import fewbits

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_ext" not in page.parts]
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
SHOWN = re.compile(r"^This page shows \[[^\]]*\]\((\S+)\)\.\n", re.MULTILINE)


def name_of(page):
    return str(page.relative_to(DOCS))


def children(page):
    """The pages that the page's toctrees list."""
    for kind, body in FENCE.findall(page.read_text()):
        if kind == "{toctree}":
            entries = [line for line in body.splitlines() if line and not line.startswith(":")]
            for entry in (re.sub(r"^.+ <(\S+)>$", r"\1", entry) for entry in entries):  # `Title <page>`
                found = sorted({path.resolve() for path in page.parent.glob(f"{entry}.md")})
                assert found, f"{name_of(page)}: the toctree entry {entry} matches no page"
                yield from (child for child in found if child != page)


def reachable(page):
    return {page}.union(*(reachable(child) for child in children(page)))


def prose(page):
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))


@cache
def anchors(page):
    """The anchors of a page's headings, as a repository's reader makes them."""
    text = page.read_text()
    for shown in SHOWN.findall(text):
        text += (page.parent / shown).read_text()
    found = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in HEADING.findall(FENCE.sub("", text))]
    return {heading.replace(" ", "-") for heading in found}


def test_every_page_is_in_the_tree_of_the_index():
    assert set(PAGES) - reachable(DOCS / "index.md") == set()


@pytest.mark.parametrize(
    "page", [DOCS / "index.md", DOCS / "papers/index.md", DOCS / "decisions/index.md", DOCS / "reference/api.md"]
)
def test_a_page_with_a_tree_has_one_line_for_each_of_its_pages(page):
    linked = [
        (page.parent / target).resolve()
        for target in re.findall(r"^(?:[-|]|\d+\.) \[.*?\]\(([^)\s]+)\)", page.read_text(), re.MULTILINE)
    ]
    assert [name_of(child) for child in children(page) if child not in linked] == []


def test_the_index_says_what_question_each_page_answers():
    lines = [line for line in (DOCS / "index.md").read_text().splitlines() if line.startswith("- [")]
    assert len(lines) > 30
    assert [line for line in lines if not re.fullmatch(r"- \[[^\]]+\]\(\S+\): [A-Z].*\?", line)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_of_the_repository_and_to_a_heading(page):
    broken = []
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        sound = file.exists() and file.is_relative_to(ROOT)
        if not sound or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_shows_exists(page):
    assert [name for name in SHOWN.findall(page.read_text()) if not (page.parent / name).is_file()] == []


def test_the_glossary_is_in_alphabetical_order():
    rows = re.findall(r"^\| (?!term|---)([^|]+) \|", (DOCS / "reference" / "glossary.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    assert rows == sorted(rows, key=str.lower)


def test_the_version_stands_in_one_place():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert re.search(r'^version = "', project, re.MULTILINE) is None
    tree = ast.parse((ROOT / "src" / "fewbits" / "__init__.py").read_text())
    stated = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert stated == [fewbits.__version__]


@pytest.mark.parametrize("wanted", ["own model", "own data", "Adam", "LoRA", "GPU", "TensorBoard", "load the model"])
def test_a_newcomer_finds_the_words_in_the_contents_and_among_the_headings(wanted):
    """The search of the site puts pages first whose titles and headings have the words."""
    words = [re.compile(rf"\b{word}", re.IGNORECASE) for word in wanted.split()]
    index = (DOCS / "index.md").read_text()
    trees = [body for kind, body in FENCE.findall(index) if kind == "{toctree}"]
    listed = [line for body in trees for line in body.splitlines() if line and not line.startswith(":")]
    titles = [re.sub(r" <\S+>$", "", entry) if "<" in entry else title_of(DOCS / f"{entry}.md") for entry in listed]
    headings = [h for page in PAGES for h in HEADING.findall(FENCE.sub("", page.read_text()))]
    for place, lines in (("contents", titles), ("headings", headings)):
        assert any(all(word.search(line) for word in words) for line in lines), f"{wanted} is not in the {place}"


def title_of(page):
    return next(iter(HEADING.findall(page.read_text())), "")
