"""Links to files of the repository, made to work on the site: to the page that shows the file, or to a copy of it."""

import os
import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
SHOWN = re.compile(r"^This page shows \[[^\]]*\]\((\S+)\)\.\n", re.MULTILINE)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


@cache
def shown() -> dict[Path, Path]:
    """File of the repository -> the page of the site that shows it."""
    pages = [page for page in DOCS.rglob("*.md") if "_ext" not in page.parts]
    return {(page.parent / name).resolve(): page for page in pages for name in SHOWN.findall(page.read_text("utf-8"))}


def place(target: Path) -> Path | None:
    """Where the site has this file or folder; None for a folder without a page."""
    if target.is_dir():
        inside = [target / "index.md", target / "README.md"]
        target = next((page for page in inside if page.exists()), target)
    target = shown().get(target, target)
    return None if target.is_dir() else target


def rewrite(text: str, origin: Path, page: Path) -> str:
    """The text of `origin` with its relative links as `page` must write them."""

    def link(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group()
        found = place((origin.parent / target).resolve())
        if found is None:
            return words
        return f"{picture}[{words}]({os.path.relpath(found, page.parent)}{anchor or ''})"

    # A link's words may hold code, so code is hidden while links are looked for.
    hidden: list[str] = []

    def hide(match: re.Match[str]) -> str:
        hidden.append(match.group())
        return f"\0{len(hidden) - 1}\0"

    return re.sub("\0(\\d+)\0", lambda m: hidden[int(m.group(1))], LINK.sub(link, CODE.sub(hide, text)))
