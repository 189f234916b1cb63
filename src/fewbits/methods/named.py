"""A method by its text or as it is."""

from __future__ import annotations

from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.catalogue import build


def named(method: str | Method) -> Method:
    """The method of that text, such as "lbgm+topk" or "topk@fraction=0.01"; a Method as it is."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise LocalError(f"expected a method, such as fewbits.methods.lbgm() or 'lbgm+topk'; got {method!r}")
    name, _, options = method.partition("@")
    return build(name, dict(part.split("=", 1) for part in options.split(",")) if options else None)
