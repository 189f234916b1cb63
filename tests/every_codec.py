"""What the laws are tried on: every codec of the package; with it, the values and ends of `fewbits.testing`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest

from fewbits import codecs
from fewbits.codecs import Codec, Transform
from fewbits.testing import as_codecs
from fewbits.testing.ends import COMMON, PRIVATE, deliver, ends, fingerprint, flattened, payload_of, restamp, run
from fewbits.testing.values import SHAPES, TREE, stream, tree, vector


def classes() -> list[type]:
    """Every Transform and Codec of the package that could be built, were it not for a missing `examples`."""
    found = []
    for info in pkgutil.walk_packages(codecs.__path__, "fewbits.codecs."):
        module = importlib.import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and issubclass(cls, Transform | Codec)
            if own and not getattr(cls, "__abstractmethods__", frozenset()) - {"examples"}:
                found.append(cls)
    return found


def every_codec() -> list[Codec]:
    """All examples, each once."""
    whole = [cls for cls in classes() if not getattr(cls, "__abstractmethods__", frozenset())]
    found = [codec for cls in whole for example in cls.examples() for codec in as_codecs(example)]
    return list({repr(codec): codec for codec in found}.values())


CODECS = every_codec()


def each_codec(function: Callable[..., None]) -> Callable[..., None]:
    """Run the test for every codec."""
    return pytest.mark.parametrize("codec", CODECS, ids=[repr(codec).replace(" ", "") for codec in CODECS])(function)


__all__ = [
    "CODECS",
    "COMMON",
    "PRIVATE",
    "SHAPES",
    "TREE",
    "classes",
    "deliver",
    "each_codec",
    "ends",
    "fingerprint",
    "flattened",
    "payload_of",
    "restamp",
    "run",
    "stream",
    "tree",
    "vector",
]
