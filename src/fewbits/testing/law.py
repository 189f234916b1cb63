"""Law: a named claim about codecs or coders, and the sentence that a broken one gives."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Law(Generic[T]):
    """One law: call it with what it speaks of; AssertionError when that breaks it.

    Args:
        function: the law of one target; its docstring states the law.
        targets: from the arguments of a call to the targets to try.

    Raises:
        AssertionError: the law is broken; the text names the law, the target, the input and the values.
    """

    function: Callable[[T], None]
    targets: Callable[..., list[T]]

    def __call__(self, *args: Any, **options: Any) -> None:
        for target in self.targets(*args, **options):
            with _Verdict(self, target):
                self.function(target)

    @property
    def __name__(self) -> str:
        return self.function.__name__

    @property
    def sentence(self) -> str:
        """What the law says."""
        return (self.function.__doc__ or "").partition("\n")[0]

    def __repr__(self) -> str:
        return self.__name__


def laws_of(*modules: ModuleType) -> tuple[Law[Any], ...]:
    """The laws that the modules define, in the order of their lines."""
    return tuple(thing for module in modules for thing in vars(module).values() if isinstance(thing, Law))


class _Verdict:
    """Turns whatever a target raises under a law into one AssertionError."""

    def __init__(self, law: Law[Any], target: Any) -> None:
        self.law, self.target = law, target

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            says = str(error) if isinstance(error, AssertionError) else f"It raised {type(error).__name__}: {error}"
            raise AssertionError(f"{self.target} breaks {self.law.__name__}. {self.law.sentence} {says}") from error


class During:
    """Names the input under which a target raised an error that the law does not allow.

    Args:
        what: what was done, such as "Decoding".
        input: the input, shown only when something was raised.
        allows: errors that may come of it; they pass.
    """

    def __init__(self, what: str, input: Any, allows: type[Exception]) -> None:
        self.what, self.input, self.allows = what, input, allows

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, AssertionError | self.allows):
            raise AssertionError(
                f"{self.what} raised {type(error).__name__}: {error}; only {self.allows.__name__} is allowed; "
                f"input: {short(self.input)}"
            ) from error


def demand(holds: bool, says: str, **values: Any) -> None:
    """Raise AssertionError with the sentence and the values unless `holds`."""
    if not holds:
        shown = (f"{name.replace('_', ' ')}: {short(value)}" for name, value in values.items())
        raise AssertionError("; ".join([says, *shown]))


def close(found: Tensor, expected: Tensor, rtol: float, atol: float, says: str) -> None:
    """Demand that two tensors have one dtype and agree within rtol * |expected| + atol."""
    fits = (found.shape, found.dtype) == (expected.shape, expected.dtype) and torch.allclose(
        found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=False
    )
    demand(fits, says, expected=expected, found=found)


def short(value: Any) -> str:
    """A value in at most some 200 characters."""
    if isinstance(value, Tensor):
        numbers = ", ".join(f"{v:.9g}" for v in value.detach().reshape(-1)[:8].tolist())
        more = ", ..." if value.numel() > 8 else ""
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} [{numbers}{more}]"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes {bytes(value[:24]).hex()}{'...' if len(value) > 24 else ''}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {short(part)}" for name, part in list(value.items())[:4]) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(short, value[:4])) + (", ...)" if len(value) > 4 else ")")
    return _shown.repr(value)


_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 200
