"""Tables: CSV and parquet files and data sets of the hub, with a column of labels; the others are features."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewbits.choices import unknown
from fewbits.data.csv_heading import separator
from fewbits.data.dataset import Data
from fewbits.data.hub import holds_pictures, hub_parts, pixels
from fewbits.data.images import EXTRA
from fewbits.errors import LocalError

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet")
OPTIONS = ("label", "test", "group")
FORM = "FILE@label=COLUMN, such as people.csv@label=income,group=city, or OWNER/NAME@label=COLUMN of the hub"
EVERY = 5  # rows; one of them is a test row where there is no test file
DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,?\d+([eE][+-]?\d+)?")  # a number as other countries write it
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
MOST = 1e100  # of a number, whose square is finite
MOST_WORDS = 100  # different texts of a column that becomes features, and of the labels


@dataclass(frozen=True)
class TableText:
    """What a text such as people.csv@label=income names."""

    file: str  # or owner/name on the hub
    label: str  # the column of the classes
    test: str | None = None  # the file of the test rows; on the hub the split
    group: str | None = None  # the column of a row's natural owner; no feature


def is_table(text: str) -> bool:
    """Whether a data set's name is that of a table, in a file or on the hub.

    >>> is_table("people.csv@label=income"), is_table("owner/name@label=kind"), is_table("mnist")
    (True, True, False)
    """
    return is_file(text) or "/" in text.partition("@")[0]


def is_file(text: str) -> bool:
    """Whether the table is a file; else it is on the hub."""
    return text.partition("@")[0].lower().endswith(ENDINGS)


def read_text(text: str) -> TableText:
    """The parts of the text; LocalError names an unknown one.

    >>> read_text("people.csv@label=income,group=city")
    TableText(file='people.csv', label='income', test=None, group='city')
    """
    file, _, rest = text.partition("@")
    found: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        name, equals, value = part.partition("=")
        if name.strip() not in OPTIONS:
            raise unknown("option of a table", name.strip(), OPTIONS)
        if not (equals and value.strip()) or name.strip() in found:
            raise LocalError(f"a table is {FORM}; got {text!r}")
        found[name.strip()] = value.strip()
    if "label" not in found:
        raise LocalError(f"a table needs the column of its labels: {FORM}; got {text!r}")
    return TableText(file, **found)


def table(text: str, folder: Path | None) -> Data:
    """Read a table, or a data set of the hub, as features (n, d) float32 or pixels (n, c, h, w), and classes (n,).

    Numbers and truth values are features as they are, minus the mean and divided by the standard deviation of the
    training rows; a missing one is the mean. A text column becomes one feature for each of its values in the training
    rows. A column of encoded images stands alone. Classes are the labels in their order.

    Args:
        text: as `read_text` takes it.
        folder: where the files are; None: the current directory.

    Raises:
        LocalError: a file cannot be read, a column is missing or cannot be a feature, or a label is missing.
    """
    asked = read_text(text)
    if not is_file(asked.file):
        parts = hub_parts(asked.file)
        if asked.test is not None and asked.test not in parts:
            raise LocalError(f"{asked.file}: {unknown('split', asked.test, parts)}")
        rows, test = parts["train"], parts.get(asked.test or "test")
    else:
        folder = folder or Path()
        rows = _read(folder / asked.file, asked.label)
        test = None if asked.test is None else _read(folder / asked.test, asked.label)
    for name in (asked.label, *([asked.group] if asked.group else []), *rows.column_names):
        _check_column(rows, name, asked.file)
    classes, labels = _classes(rows, asked)
    if test is None:
        tested = np.arange(rows.num_rows) % EVERY == EVERY - 1
        train, test = rows.filter(~tested), rows.filter(tested)
        train_y, test_y = labels[~tested], labels[tested]
    else:
        train, where = rows, asked.test or "test"
        for name in (name for name in rows.column_names if name != asked.group):
            _check_column(test, name, where)
        train_y, test_y = labels, _numbers(test, asked.label, where, classes)
    if not (train.num_rows and test.num_rows):
        raise LocalError(f"{asked.file} has {rows.num_rows} rows; a table needs {EVERY}, or rows in a test file, too")
    x, test_x = _examples(train, test, asked)
    groups = None if asked.group is None else _owners(train, asked.group)
    return Data(x, torch.from_numpy(train_y), test_x, torch.from_numpy(test_y), len(classes), asked.file, groups)


def _examples(train: pa.Table, test: pa.Table, asked: TableText) -> tuple[Tensor, Tensor]:
    """What the model gets of both."""
    names = [name for name in train.column_names if name not in (asked.label, asked.group)]
    if not names:
        raise LocalError(f"{asked.file} has no column for features beside {asked.label}")
    pictures = [name for name in names if holds_pictures(train.schema.field(name).type)]
    if pictures and len(names) > 1:
        raise LocalError(
            f"{asked.file}: column {pictures[0]!r} has images, so it must be the only one beside the label"
        )
    if pictures:
        x, test_x = (pixels(rows.column(names[0]), f"{asked.file} {names[0]}") for rows in (train, test))
        if x.shape[1:] != test_x.shape[1:]:
            raise LocalError(
                f"{asked.file}: images are {tuple(x.shape[1:])}; in the test rows {tuple(test_x.shape[1:])}"
            )
        return x, test_x
    columns = [_features(train, test, name, asked.file) for name in names]
    x, test_x = (torch.from_numpy(np.concatenate(parts, axis=1)) for parts in zip(*columns, strict=True))
    return x, test_x


def _read(file: Path, label: str) -> pa.Table:
    try:
        import pyarrow as pa
        import pyarrow.csv as csv
        import pyarrow.parquet as pq
    except ImportError:
        raise LocalError(f"load: {file} needs pyarrow; {EXTRA}") from None
    try:
        if file.suffix.lower() == ".csv":
            parsing = csv.ParseOptions(delimiter=separator(file, label))
            rows = csv.read_csv(file, None, parsing, csv.ConvertOptions(strings_can_be_null=True))
            binary = next((column.name for column in rows.schema if pa.types.is_binary(column.type)), None)
            if binary is not None:
                raise LocalError(f"load: {file} is not UTF-8: see column {binary!r}; save it as such")
        else:
            rows = pq.read_table(file)
    except FileNotFoundError:
        raise LocalError(f"load: there is no file {file}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise LocalError(f"load: {file} cannot be read as {file.suffix[1:]}: {error}") from None
    if not rows.num_rows:
        raise LocalError(f"load: {file} has the columns {', '.join(rows.column_names)}, and no row")
    return rows


def _check_column(rows: pa.Table, name: str, file: str) -> None:
    count = rows.column_names.count(name)
    if count == 0:
        raise LocalError(f"{file}: {unknown('column', name, rows.column_names)}")
    if count > 1:
        raise LocalError(f"{file}: {count} columns are called {name!r}; rename all but one")


def _classes(rows: pa.Table, asked: TableText) -> tuple[list[object], np.ndarray]:
    """The different labels in order, and every row's number among them."""
    values = rows.column(asked.label).unique().to_pylist()
    if any(value is None or value != value for value in values):
        raise LocalError(f"{asked.file}: column {asked.label!r} has rows without a label")
    if not 2 <= len(values) <= MOST_WORDS:
        raise LocalError(
            f"{asked.file}: column {asked.label!r} has {len(values):,} different labels; classes are 2 to "
            f"{MOST_WORDS}. For a regression give --data module:function and --loss"
        )
    classes = sorted(values)
    return classes, _numbers(rows, asked.label, asked.file, classes)


def _numbers(rows: pa.Table, label: str, file: str, classes: list[object]) -> np.ndarray:
    """Each row's class."""
    number = {value: place for place, value in enumerate(classes)}
    values = rows.column(label).to_pylist()
    strange = next((value for value in values if value not in number), classes[0])
    if strange not in number:
        raise LocalError(f"{file}: label {strange!r} is none of the training rows' {len(classes)} classes")
    return np.array([number[value] for value in values], np.int64)


def _features(train: pa.Table, test: pa.Table, name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) and (m, k) float32 of one column."""
    import pyarrow.types as kinds

    kind = train.schema.field(name).type
    if kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
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


def _scaled(train: pa.Table, test: pa.Table, name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        first, second = (np.array([_number(v) for v in x.column(name).to_pylist()]) for x in (train, test))
    except ValueError:
        raise LocalError(f"{file}: column {name!r} has numbers, but text in the test rows") from None
    for found in (first, second):
        if (np.abs(found) > MOST).any():
            raise LocalError(f"{file}: column {name!r} has values beyond {MOST:g}, or infinite ones; leave them empty")
    known = first[np.isfinite(first)]
    mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    scale = spread if spread > 0 else 1.0
    scaled = (np.where(np.isfinite(x), (x - mean) / scale, 0.0).astype(np.float32)[:, None] for x in (first, second))
    one, other = scaled
    return one, other


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # pyright: ignore[reportArgumentType] - ValueError says it


def _owners(rows: pa.Table, name: str) -> np.ndarray:
    """Each row's owner, numbered in order of appearance."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in rows.column(name).to_pylist()], np.int64)
