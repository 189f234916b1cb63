"""Parts of pages that the program writes, so that a page reads the same in the repository and on the site.

    <!-- written: names fewbits.codecs -->      every public name of a module
    <!-- written: fields fewbits.links.Entry -->    every attribute of a class
    <!-- written: commands -->                  every command with its options
    <!-- written: methods -->                   every method with its options; likewise `gossip`, `downlinks`

`<!-- end -->` ends each part. `python docs/_ext/written_parts.py` writes them all; a test compares them.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent / "src"))

import command_pages  # noqa: E402
import field_pages  # noqa: E402
import name_pages  # noqa: E402

PART = re.compile(r"(^<!-- written: (\w+)(?: (\S+))? -->\n)(.*?)(^<!-- end -->$)", re.MULTILINE | re.DOTALL)
WRITERS: dict[str, Callable[..., str]] = {
    "names": name_pages.overview,
    "fields": field_pages.fields,
    "commands": command_pages.commands,
    "methods": command_pages.methods,
    "gossip": command_pages.gossip,
    "downlinks": command_pages.downlinks,
}


def written(text: str) -> str:
    """The page with each of its parts as the program says it now."""

    def part(match: re.Match[str]) -> str:
        begin, word, argument, _, end = match.groups()
        body = WRITERS[word](*[argument] if argument else []).strip()
        return f"{begin}\n{body}\n\n{end}"

    return PART.sub(part, text)


def pages() -> list[Path]:
    """The pages that have such parts."""
    return [page for page in sorted(DOCS.rglob("*.md")) if PART.search(page.read_text("utf-8"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(written(page.read_text("utf-8")), "utf-8")
