"""A builtin type in a signature is no link: Sphinx takes `bytes` for a property of that name."""

import builtins

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx


def unlink(app: Sphinx, tree: nodes.document) -> None:
    """Put the name of such a type in the place of the reference."""
    for found in list(tree.findall(pending_xref)):
        if found.get("refdomain") == "py" and hasattr(builtins, found["reftarget"]):
            found.replace_self(nodes.Text(found["reftarget"]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before references are looked up."""
    app.connect("doctree-read", unlink)
    return {"parallel_read_safe": True}
