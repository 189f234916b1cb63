"""The names of a module, as blocks for autodoc. A name of the first tier is described once, on that tier's page."""

import importlib
import inspect
from types import ModuleType

from command_pages import cell

FIRST = "fewbits"


def names(module: str) -> str:
    """Markdown: what each public name of the module is; LookupError for a module without `__all__`."""
    found = importlib.import_module(module)
    public = getattr(found, "__all__", None)
    if public is None:
        raise LookupError(f"{module} has no __all__: its public names are not known")
    first = set(importlib.import_module(FIRST).__all__) if module != FIRST else set()
    here = sorted((name for name in public if name not in first), key=str.lower)
    above = sorted((name for name in public if name in first and _described(found, name)), key=str.lower)
    return _also(above) + "\n".join(_block(found, module, name) for name in here if _described(found, name))


def overview(module: str) -> str:
    """Markdown: a table of every public name of the module, with the first line of its docstring."""
    found = importlib.import_module(module)
    rows = [f"| `{name}` | {cell(_first(getattr(found, name)))} |" for name in sorted(found.__all__, key=str.lower)]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def _first(thing: object) -> str:
    if isinstance(thing, ModuleType) or callable(thing):
        return (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return f"a {type(thing).__name__} of " + ", ".join(f"`{getattr(each, '__name__', each)}`" for each in thing)


def _described(module: ModuleType, name: str) -> bool:
    return not isinstance(getattr(module, name), ModuleType)  # a module has a page of its own


def _also(above: list[str]) -> str:
    if not above:
        return ""
    links = ", ".join(f"{{py:obj}}`{name} <{FIRST}.{name}>`" for name in above)
    return f"Described with the [first tier]({FIRST}.md), which has them too: {links}.\n\n"


def _block(module: ModuleType, path: str, name: str) -> str:
    thing = getattr(module, name)
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        body = f".. {kind}:: {path}.{name}\n   :members:"
    elif callable(thing):
        body = f".. autofunction:: {path}.{name}"
    else:  # a value has no docstring of its own; autodoc would show its type's
        body = f".. py:data:: {path}.{name}\n   :type: {type(thing).__name__}"
    return f"```{{eval-rst}}\n{body}\n```\n"
