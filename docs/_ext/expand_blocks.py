"""Blocks that a page leaves to the build, so that they are never out of date.

    ```{names} fewbits.codecs      every public name of a module, from its docstring
    ```{commands}                  every command with its options
    ```{methods}                   every method with its options
    ```{file} ../../CHANGELOG.md   a page that lives elsewhere in the repository

Each is three backticks, the word, and three backticks on the next line.
"""

import re
from pathlib import Path

import command_pages
import name_pages
import repository_links
from sphinx.application import Sphinx

BLOCK = re.compile(r"^```\{(names|commands|methods|file)\} ?(.*)\n```$", re.MULTILINE)


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what each block stands for in its place, and point links to other files at their pages."""
    page = Path(app.srcdir, f"{docname}.md")

    def found(match: re.Match[str]) -> str:
        word, argument = match.groups()
        if word == "names":
            return name_pages.names(argument)
        if word == "commands":
            return command_pages.commands()
        if word == "methods":
            return command_pages.methods()
        origin = (page.parent / argument).resolve()
        app.env.note_dependency(origin)
        return repository_links.rewrite(origin.read_text(encoding="utf-8"), origin, page)

    source[0] = BLOCK.sub(found, repository_links.rewrite(source[0], page, page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page as it is read."""
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}
