"""Checks of arguments: one function per kind, and one sentence that says what was expected and what came.

`what` names class and option, such as "TopK: fraction". A bool is never a number. NumPy's numbers pass where `numpy` is
set.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from numbers import Integral, Real

from fewbits.errors import LocalError

SHORT = 80  # characters of a value's repr that a sentence shows
_FINITE = {"(0, inf)": "a finite number above 0", "[0, inf)": "a finite number, 0 or more"}


def shown(value: object) -> str:
    """A value as the end of a sentence: its repr where that is short, else its kind.

    >>> shown("adam"), shown([0] * 100)
    ("'adam'", 'a value of type list')
    """
    text = repr(value)
    return text if len(text) <= SHORT and "\n" not in text else f"a value of type {type(value).__name__}"


def check_whole(
    what: str,
    value: object,
    least: int | None = None,
    most: int | None = None,
    *,
    numpy: bool = False,
    hint: str = "",
) -> None:
    """Raise LocalError unless `value` is a whole number from `least` to `most`; None: no bound.

    >>> check_whole("Quantize: bits", 1, 2, 16)
    Traceback (most recent call last):
    fewbits.errors.LocalError: Quantize: bits must be a whole number in 2..16; got 1
    """
    if type(value) is int or (isinstance(value, Integral if numpy else int) and not isinstance(value, bool)):
        number = int(value)  # pyright: ignore
        if (least is None or least <= number) and (most is None or number <= most):
            return
    bounds = f" in {least}..{most}" if most is not None else "" if least is None else f", {least} or more"
    raise LocalError(f"{what} must be a whole number{bounds}{hint}; got {value!r}")


def check_count(what: str, value: object) -> None:
    """Raise LocalError unless `value` is a whole number of 1 or more that a run can reach.

    >>> check_count("rounds", 10**30)
    Traceback (most recent call last):
    fewbits.errors.LocalError: rounds must be a whole number in 1..1000000000; got 1000000000000000000000000000000
    """
    check_whole(what, value, 1, numpy=True)
    check_whole(what, value, 1, 10**9, numpy=True)


def check_seed(what: str, value: object) -> None:
    """Raise LocalError unless `value` is a whole number of 0 or more that files and other programs can hold.

    >>> check_seed("seed", True)
    Traceback (most recent call last):
    fewbits.errors.LocalError: seed must be a whole number in 0..9223372036854775807; got True
    """
    check_whole(what, value, 0, 2**63 - 1, numpy=True)


def check_number(what: str, value: object, interval: str, *, numpy: bool = False, hint: str = "") -> None:
    """Raise LocalError unless `value` is a number in the interval, as mathematics writes it; NaN is in none.

    >>> check_number("TopK: fraction", 0.0, "(0, 1]")
    Traceback (most recent call last):
    fewbits.errors.LocalError: TopK: fraction must be a number in (0, 1]; got 0.0
    """
    if isinstance(value, Real if numpy else int | float) and not isinstance(value, bool):
        low, high = map(float, interval[1:-1].split(","))
        above = low < value if interval[0] == "(" else low <= value  # pyright: ignore
        if above and (value < high if interval[-1] == ")" else value <= high):  # pyright: ignore
            return
    expected = _FINITE.get(interval, f"a number in {interval}")
    raise LocalError(f"{what} must be {expected}{hint}; got {value!r}")


def check_factor(what: str, value: object, interval: str = "(0, inf)") -> None:
    """As check_number, for what float32 vectors are multiplied by: there 1e39 would be infinite, and 1e-50 nothing.

    >>> check_factor("ServerSGD: lr", 1e39)
    Traceback (most recent call last):
    fewbits.errors.LocalError: ServerSGD: lr must be a number in [1e-38, 1e38], for float32; got 1e+39
    """
    check_number(what, value, interval, numpy=True)
    if value:
        check_number(what, value, "[1e-38, 1e38]", numpy=True, hint=", for float32")


def check_one_of(what: str, value: object, choices: Collection[str], hint: str = "") -> None:
    """Raise LocalError unless `value` is one of the choices.

    >>> check_one_of("RandK: mode", "Biased", ("contractive", "unbiased"))
    Traceback (most recent call last):
    fewbits.errors.LocalError: RandK: mode must be one of contractive, unbiased; got 'Biased'; did you mean 'unbiased'?
    """
    if isinstance(value, str) and value in choices:
        return
    near = get_close_matches(value.casefold(), choices, n=1) if isinstance(value, str) else []
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise LocalError(f"{what} must be one of {', '.join(choices)}{hint}; got {value!r}{meant}")


def check_flag(what: str, value: object) -> None:
    """Raise LocalError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise LocalError(f"{what} must be True or False; got {value!r}")


def check_bytes(what: str, value: object) -> None:
    """LocalError unless `value` is bytes, a bytearray or a memoryview.

    >>> check_bytes("Client.receive", b"")
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise LocalError(f"{what} takes bytes; got {type(value).__name__}")
