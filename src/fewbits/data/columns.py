"""Columns of a table as numbers: features, and numbers to predict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from fewbits.data.dataset import Scale
from fewbits.errors import LocalError

if TYPE_CHECKING:
    import pyarrow as pa

DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,?\d+([eE][+-]?\d+)?")  # a number as other countries write it
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
MOST = 1e100  # of a number, whose square is finite
MOST_SCALED = 1e18  # standard deviations from the mean; float32 has its square
MOST_WORDS = 100  # different texts of a column that becomes features, and of the labels


def features(train: pa.Table, test: pa.Table, name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) and (m, k) float32 of one column."""
    import pyarrow.types as kinds

    kind = train.schema.field(name).type
    if _holds_numbers(kind):
        return _scaled(train, test, name, file)
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_dictionary(kind)):
        raise LocalError(f"{file}: column {name!r} is {kind}; features are numbers, truth values or texts")
    words = sorted({word for word in train.column(name).to_pylist() if word is not None})
    if any("," in word for word in words) and all(DECIMAL_COMMA.fullmatch(word) for word in words):
        raise LocalError(
            f"{file}: column {name!r} has numbers with a comma, such as {next(w for w in words if ',' in w)!r}; write "
            "them with a decimal point, and without a mark between thousands"
        )
    numbers = [word for word in words if NUMBER.fullmatch(word)]
    marks = [word for word in words if not any(map(str.isalnum, word))]
    others = marks if len(numbers) + len(marks) == len(words) else []
    if numbers and others:
        raise LocalError(
            f"{file}: column {name!r} has numbers, such as {numbers[0]!r}, and {others[0]!r}; leave missing ones empty"
        )
    if len(words) > MOST_WORDS:
        raise LocalError(
            f"{file}: column {name!r} has {len(words):,} different texts, more than {MOST_WORDS}; drop it from "
            "the file, or use it as group="
        )
    both = (np.array([[word == each for each in words] for word in x.column(name).to_pylist()]) for x in (train, test))
    first, second = (x.reshape(len(x), len(words)).astype(np.float32) for x in both)
    return first, second


def scaled_targets(
    train: pa.Table, test: pa.Table, name: str, files: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray, Scale]:
    """(n, 1) and (m, 1) float32 of the column to predict, and what they were scaled by.

    Args:
        train: the training rows.
        test: the test rows.
        name: of the column.
        files: where they are from.

    Raises:
        LocalError: the column has no numbers, a number is missing, infinite or far beyond the training rows,
            or all training rows have the same.
    """
    import pyarrow.types as kinds

    for rows, file in zip((train, test), files, strict=True):
        kind = rows.schema.field(name).type
        if not _holds_numbers(kind) or kinds.is_boolean(kind):
            raise LocalError(
                f"{file}: column {name!r} is {kind}{_first_text(rows, name)}; target= takes numbers, label= classes"
            )
    found = [_numbers(rows, name, file) for rows, file in zip((train, test), files, strict=True)]
    for numbers, file in zip(found, files, strict=True):
        if not np.isfinite(numbers).all():
            raise LocalError(f"{file}: column {name!r} has rows without a number, so there is nothing to predict")
    mean, spread = _mean_and_spread(found[0])
    if not spread > 0:
        raise LocalError(f"{files[0]}: column {name!r} has {mean:g} in all training rows; there is nothing to predict")
    y, test_y = (_by_scale(one, mean, spread, name, file) for one, file in zip(found, files, strict=True))
    return y, test_y, Scale(name, mean, spread)


def _scaled(train: pa.Table, test: pa.Table, name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = (_numbers(rows, name, file) for rows in (train, test))
    mean, spread = _mean_and_spread(first[np.isfinite(first)])
    one, other = (_by_scale(np.nan_to_num(x, nan=mean), mean, spread or 1.0, name, file) for x in (first, second))
    return one, other


def _mean_and_spread(x: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 where all are equal, which rounding of the mean would hide."""
    if not len(x) or x.min() == x.max():
        return float(x[0]) if len(x) else 0.0, 0.0
    return float(x.mean()), float(x.std())


def _by_scale(x: np.ndarray, mean: float, spread: float, name: str, file: str) -> np.ndarray:
    """(x - mean) / spread as (n, 1) float32; LocalError where that is beyond what float32 can square."""
    found = (x - mean) / spread
    if (np.abs(found) > MOST_SCALED).any():
        raise LocalError(
            f"{file}: column {name!r} has {x[np.abs(found).argmax()]:g}, and the training rows have {mean:.6g} with a "
            f"standard deviation of {spread:.6g}; leave out that row"
        )
    return found.astype(np.float32)[:, None]


def _first_text(rows: pa.Table, name: str) -> str:
    """ ", such as 'none'": the first text of a column that is no number; "" where there is none."""
    import pyarrow.types as kinds

    if not kinds.is_string(rows.schema.field(name).type):
        return ""
    found = next(
        (word for word in rows.column(name).to_pylist() if word is not None and not NUMBER.fullmatch(word)), ""
    )
    return f", such as {found[:40]!r}" if found else ""


def _numbers(rows: pa.Table, name: str, file: str) -> np.ndarray:
    """(n,) float64; NaN where one is missing."""
    try:
        found = np.array([_number(value) for value in rows.column(name).to_pylist()])
    except ValueError:
        raise LocalError(f"{file}: column {name!r} has numbers, but text in the test rows") from None
    if (np.abs(found) > MOST).any():
        raise LocalError(f"{file}: column {name!r} has values beyond {MOST:g}, or infinite ones; leave them empty")
    return found


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # pyright: ignore[reportArgumentType] - ValueError says it


def _holds_numbers(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    return kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
