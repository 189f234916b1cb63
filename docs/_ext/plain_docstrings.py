"""Read docstrings as plain text with `code` in backticks, as they are written, instead of as reStructuredText.

Outside code, `|x|`, `2 * 3` and `x_` are text there; reStructuredText would take them for markup. A block that is
indented below a sentence with a colon is shown as it stands.
"""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|`[^`]+`)")
MARKUP = re.compile(r"([|*\\]|(?<=\w)_(?!\w))")
DIRECTIVE = re.compile(r"^(\s*)\.\. ")


def escape(line: str) -> str:
    """The line with every mark of reStructuredText outside code made plain."""
    parts = CODE.split(line)
    return "".join(part if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))


def indent(line: str) -> int:
    """Spaces at the start of the line."""
    return len(line) - len(line.lstrip())


def opens_block(lines: list[str], i: int) -> bool:
    """Whether line i ends with a colon, and a blank line and something deeper follow."""
    if not lines[i].rstrip().endswith(":") or i + 2 >= len(lines) or lines[i + 1].strip():
        return False
    return bool(lines[i + 2].strip()) and indent(lines[i + 2]) > indent(lines[i])


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape the prose of a docstring in place; examples, literal blocks and directives stay."""
    example, block = False, -1  # block: the indentation that ends a literal block or a directive
    for i, line in enumerate(lines):
        if block >= 0 and line.strip() and indent(line) <= block:
            block = -1
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example or block >= 0:
            continue
        directive = DIRECTIVE.match(line)
        if directive or line.rstrip().endswith("::"):
            block = indent(line)
        elif opens_block(lines, i):
            block, line = indent(line), line.rstrip() + ":"
        lines[i] = line if directive else escape(line)
    if what in ("property", "attribute", "data"):
        lines[:0] = ["..", ""]  # else napoleon takes what stands before the first colon for the value's type


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon, whose own marks must stay."""
    app.connect("autodoc-process-docstring", plain, priority=400)
    return {"parallel_read_safe": True}
