"""What the site shows beyond a page's own text.

- Below the table of a module's names, each name with its whole docstring.
- In place of `This page shows [NAME](PATH).`, that file of the repository.
"""

import re
from pathlib import Path

import name_pages
import repository_links
import written_parts
from sphinx.application import Sphinx


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put docstrings and files in their places, and point links to other files at their pages."""
    page = Path(app.srcdir, f"{docname}.md")

    def shown(match: re.Match[str]) -> str:
        origin = (page.parent / match.group(1)).resolve()
        app.env.note_dependency(origin)
        return repository_links.rewrite(origin.read_text(encoding="utf-8"), origin, page)

    def described(match: re.Match[str]) -> str:
        _, word, argument, _, _ = match.groups()
        return match.group() + (f"\n\n{name_pages.names(argument)}" if word == "names" else "")

    if (shows := repository_links.SHOWN.fullmatch(source[0])) is not None:
        source[0] = shown(shows)
    else:
        source[0] = written_parts.PART.sub(described, repository_links.rewrite(source[0], page, page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page as it is read."""
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}
