"""StrategyState: what a strategy has changed in itself since a run began, such as moments, as one file's bytes.

Its settings stay those of the strategy that continues. Values are None, bools, numbers, text, bytes, arrays, Flower's
records, lists, tuples and dicts of these, and strategies inside. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import load as load_file
from safetensors.numpy import save as save_file

from fewbits.engines.flower.npy import numbers
from fewbits.errors import LocalError

log = logging.getLogger("flwr")
TREE = "tree"
DEEPEST = 20
RECORDS: dict[str, Callable[..., Any]] = {"MetricRecord": MetricRecord, "ConfigRecord": ConfigRecord}


class UnknownValueError(TypeError):
    """A value of a type that is not stored."""


class StrategyState:
    """Follow one strategy's attributes from now on.

    Args:
        strategy: as it was made, before its first round.
        hidden: names of attributes that are not its own.
    """

    def __init__(self, strategy: Strategy, hidden: frozenset[str]) -> None:
        self.strategy, self._hidden = strategy, hidden
        self._first = {name: _mark(node) for name, node in self._nodes().items()}

    def _nodes(self) -> dict[str, Any]:
        """The attributes by path, encoded; None for one that is not stored."""
        return _attributes(self.strategy, self._hidden)

    @property
    def unknown(self) -> list[str]:
        """Attributes that are not stored, and their types."""
        nodes = self._nodes()
        return [f"{path} ({type(_find(self.strategy, path)).__name__})" for path, node in nodes.items() if node is None]

    def check(self) -> None:
        """Log what is not stored; LocalError when it counts privacy, which must not be forgotten."""
        unknown = self.unknown
        for path in unknown:
            if path.partition(" ")[0].endswith("accountant"):
                raise LocalError(
                    f"compress: with state= a resumed run would forget the privacy that {path} counts; leave out one"
                )
        if unknown:
            log.warning("fewbits: a checkpoint does not hold the strategy's %s", ", ".join(unknown))

    def dump(self, arrays: ArrayRecord | None) -> bytes:
        """All that has changed, and the arrays that the next round begins with."""
        tensors: dict[str, np.ndarray] = {}
        changed = {p: n for p, n in self._nodes().items() if n is not None and _mark(n) != self._first.get(p)}
        tree = {"attributes": _lifted(changed, tensors), "arrays": _lifted(_encoded(arrays), tensors)}
        tensors[TREE] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
        return save_file(tensors)

    def load(self, data: bytes) -> ArrayRecord | None:
        """Set what had changed; the arrays that the next round begins with."""
        tensors = load_file(data)
        tree = json.loads(tensors[TREE].tobytes())
        for path, node in tree["attributes"].items():
            owner, _, name = path.rpartition("/")
            setattr(_find(self.strategy, owner), name, _decoded(node, tensors))
        return _decoded(tree["arrays"], tensors)


def _find(strategy: Any, path: str) -> Any:
    for name in filter(None, path.split("/")):
        strategy = getattr(strategy, name)
    return strategy


def _attributes(strategy: Strategy, hidden: frozenset[str], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if name in hidden or callable(value):
            continue
        if isinstance(value, Strategy):
            found |= _attributes(value, hidden, f"{path}{name}/")
            continue
        try:
            found[path + name] = _encoded(value)
        except UnknownValueError:
            found[path + name] = None
    return found


def _encoded(value: Any, depth: int = 0) -> Any:
    """[kind, content]; arrays stay as they are until `_lifted`."""
    if depth > DEEPEST:
        raise UnknownValueError
    if value is None or type(value) in (bool, int, str):
        return ["plain", value]
    if type(value) is float:
        return ["float", value.hex()]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "fiub" or value.dtype.byteorder == ">":
            raise UnknownValueError
        return ["number" if isinstance(value, np.generic) else "array", np.asarray(value)]
    if isinstance(value, ArrayRecord):
        return ["ArrayRecord", [[name, ["array", numbers(array.data)]] for name, array in value.items()]]
    inside = [[_encoded(k, depth + 1), _encoded(x, depth + 1)] for k, x in _pairs(value)]
    return [type(value).__name__, inside]


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if type(value) in (list, tuple):
        return list(enumerate(value))
    if type(value) is dict or isinstance(value, MetricRecord | ConfigRecord):
        return list(value.items())
    raise UnknownValueError


def _decoded(node: Any, tensors: dict[str, np.ndarray]) -> Any:
    kind, content = node
    if kind == "plain":
        return content
    if kind == "float":
        return float.fromhex(content)
    if kind == "bytes":
        return base64.b64decode(content)
    if kind in ("array", "number"):
        return tensors[content][()] if kind == "number" else tensors[content].copy()
    if kind == "ArrayRecord":
        return ArrayRecord({name: Array(_decoded(x, tensors)) for name, x in content})
    items = [(_decoded(k, tensors), _decoded(x, tensors)) for k, x in content]
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(x for _, x in items)
    return RECORDS.get(kind, dict)(dict(items))


def _lifted(node: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The same tree with arrays moved to `tensors`, under numbers."""
    if isinstance(node, np.ndarray):
        tensors[str(len(tensors))] = np.array(node, order="C")
        return str(len(tensors) - 1)
    if isinstance(node, dict):
        return {name: _lifted(x, tensors) for name, x in node.items()}
    return [_lifted(x, tensors) for x in node] if isinstance(node, list) else node


def _mark(node: Any) -> str:
    """A digest by which a change is seen."""
    tensors: dict[str, np.ndarray] = {}
    text = json.dumps(_lifted(node, tensors))
    found = hashlib.blake2b(text.encode(), digest_size=16)
    for x in tensors.values():
        found.update(f"{x.dtype} {x.shape}".encode() + x.tobytes())
    return found.hexdigest()
