"""Problems: what is wrong with a command, said at once, by checks that do not need each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fewbits.errors import LocalError

T = TypeVar("T")


class Problems:
    """Collects the sentences of LocalErrors.

    >>> problems = Problems()
    >>> problems.of(lambda: int("3"))
    3
    >>> problems.stop()
    """

    def __init__(self) -> None:
        self._said: dict[str, None] = {}  # in order

    def of(self, check: Callable[[], T]) -> T | None:
        """What the check returns; None where it raises a LocalError."""
        try:
            return check()
        except LocalError as error:
            self._said[str(error)] = None
            return None

    def __bool__(self) -> bool:
        return bool(self._said)

    def stop(self) -> None:
        """Raise LocalError where there is a problem: one as its sentence, several as a list of theirs."""
        if len(self._said) == 1:
            raise LocalError(next(iter(self._said)))
        if self._said:
            raise LocalError("\n- ".join([f"{len(self._said)} things are wrong:", *self._said]))
