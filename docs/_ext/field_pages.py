"""The attributes of a class as a table, read from its comments and docstrings."""

import ast
import importlib
import inspect
import io
import textwrap
import tokenize

from command_pages import cell


def fields(path: str) -> str:
    """Markdown: each public field and property of the class at `path`; LookupError for one that nothing describes."""
    module, _, name = path.rpartition(".")
    rows = []
    for attribute, (kind, meaning) in _attributes(getattr(importlib.import_module(module), name)).items():
        if not meaning:
            raise LookupError(f"{path}.{attribute} has neither a comment nor a docstring")
        kind = kind.replace("|", "\\|")
        rows.append(f"| `{attribute}` | `{kind}` | {cell(meaning)} |")
    return "\n".join(["| attribute | type | meaning |", "|---|---|---|", *rows])


def _attributes(cls: type) -> dict[str, tuple[str, str]]:
    """Name -> (type, meaning), in the order of the source; what a base class of the package adds stands last."""
    found: dict[str, tuple[str, str]] = {}
    for each in cls.__mro__:
        if each is cls or each.__module__.startswith("fewbits."):
            found = found | {name: what for name, what in _of_class(each).items() if name not in found}
    return found


def _of_class(cls: type) -> dict[str, tuple[str, str]]:
    source = textwrap.dedent(inspect.getsource(cls))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    comments, found = _comments(source), {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ast.unparse(node.annotation), _meaning(node, comments)
        elif isinstance(node, ast.FunctionDef) and "property" in map(ast.unparse, node.decorator_list):
            words = (ast.get_docstring(node) or "").partition("\n\n")[0]
            found[node.name] = ast.unparse(node.returns) if node.returns else "", words
    return {name: what for name, what in found.items() if not name.startswith("_")}


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """Line -> (whether the comment stands alone there, its words)."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = (token for token in tokens if token.type == tokenize.COMMENT)
    return {t.start[0]: (not t.line[: t.start[1]].strip(), t.string.lstrip("# ")) for t in found}


def _meaning(node: ast.AnnAssign, comments: dict[int, tuple[bool, str]]) -> str:
    """The comment lines directly above a field, then the one behind it."""
    words, line = [], node.lineno - 1
    while comments.get(line, (False, ""))[0]:
        words.insert(0, comments[line][1])
        line -= 1
    return " ".join([*words, comments.get(node.end_lineno or node.lineno, (False, ""))[1]]).strip()
