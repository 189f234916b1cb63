"""A codec from the text of its repr. Names come from a fixed list; no other code runs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fewbits import codecs, coders
from fewbits.codecs import Codec, Transform
from fewbits.coders.base import Coder
from fewbits.errors import LocalError

EXAMPLE = "flat(chain(TopK(0.05), Rans()))"


def _constructors() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        "chain": codecs.chain,
        "flat": codecs.flat,
        "each": codecs.each,
        "route": codecs.route,
        "Adaptive": codecs.Adaptive,
    }
    for package in (codecs, coders):
        for name in package.__all__:
            thing = getattr(package, name)
            codec = inspect.isclass(thing) and issubclass(thing, Transform | Codec | Coder)
            if codec and not inspect.isabstract(thing):
                found[name] = thing
    return found


CONSTRUCTORS: Mapping[str, Callable[..., Any]] = _constructors()


def parse(text: str) -> Any:
    """The codec that `text` describes; names may begin with `fb.`.

    >>> parse("fb.flat(fb.TopK(0.05) )")
    flat(chain(TopK(fraction=0.05)))

    Raises:
        LocalError: a part of the text is no codec.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise LocalError(f"not a codec: {text[:80]!r}; write one as fewbits prints it, such as {EXAMPLE}") from None
    found = _value(tree.body)
    if not isinstance(found, Codec | Transform | Coder):
        raise LocalError(f"not a codec: {text[:80]!r} is of type {type(found).__name__}")
    return found


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return tuple(_value(part) for part in parts)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="fb"), attr=name)):
            return _call(name, [_value(a) for a in node.args], {str(k.arg): _value(k.value) for k in node.keywords})
    raise LocalError(f"not part of a codec: {ast.unparse(node)[:80]!r}")


def _call(name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
    if name not in CONSTRUCTORS:
        raise LocalError(f"unknown codec {name!r}; choose among {', '.join(CONSTRUCTORS)}")
    try:
        return CONSTRUCTORS[name](*args, **keywords)
    except TypeError as error:
        raise LocalError(f"{name}: {error}") from None
