"""Tables: CSV and parquet files and data sets of the hub, with a column of labels or numbers to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewbits.choices import unknown
from fewbits.data.columns import MOST_WORDS, features, scaled_targets
from fewbits.data.csv_heading import separator
from fewbits.data.dataset import Data
from fewbits.data.hub import holds_pictures, hub_parts, pixels
from fewbits.data.images import EXTRA
from fewbits.errors import LocalError

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet")
OPTIONS = ("label", "target", "test", "group")
FORM = "FILE@label=COLUMN, such as people.csv@label=income,group=city, or OWNER/NAME@label=COLUMN of the hub"
NUMBERS = "for numbers to predict write target=COLUMN instead of label="
EVERY = 5  # rows; one of them is a test row where there is no test file


@dataclass(frozen=True)
class TableText:
    """What a text such as people.csv@label=income names."""

    file: str  # or owner/name on the hub
    label: str  # the column of the classes, or of the numbers to predict
    regression: bool = False  # whether it has numbers to predict
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
    TableText(file='people.csv', label='income', regression=False, test=None, group='city')
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
    label, target = found.pop("label", None), found.pop("target", None)
    if label and target:
        raise LocalError(f"a table has label= for classes, or target= for numbers, not both; got {text!r}")
    column = label or target
    if column is None:
        raise LocalError(f"a table needs the column of its labels: {FORM}; {NUMBERS}; got {text!r}")
    return TableText(file, column, target is not None, **found)


def table(text: str, folder: Path | None) -> Data:
    """Read a table, or a data set of the hub: features (n, d) float32 or pixels (n, c, h, w), and classes or numbers.

    Numbers and truth values are features as they are, minus the mean and divided by the standard deviation of the
    training rows; a missing one is the mean. A text column becomes one feature for each of its values in the training
    rows. A column of encoded images stands alone. Classes are the labels in their order, (n,) int64. Numbers to predict
    are (n, 1) float32, less the mean and divided by the standard deviation of the training rows.

    Args:
        text: as `read_text` takes it.
        folder: where the files are; None: the current directory.

    Raises:
        LocalError: a file cannot be read, a column is missing or cannot be a feature, or a label or number is missing.
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
    names = [] if asked.regression else _classes(rows, asked)
    where = asked.test or (asked.file if test is None else "test")
    if test is None:
        tested = np.arange(rows.num_rows) % EVERY == EVERY - 1
        train, test = rows.filter(~tested), rows.filter(tested)
    else:
        train = rows
        for name in (name for name in rows.column_names if name != asked.group):
            _check_column(test, name, where)
    if not (train.num_rows and test.num_rows):
        raise LocalError(f"{asked.file} has {rows.num_rows} rows; a table needs {EVERY}, or rows in a test file, too")
    groups = None if asked.group is None else _owners(train, asked.group)
    if asked.regression:
        y, test_y, scale = scaled_targets(train, test, asked.label, (asked.file, where))
        classes = 1
    else:
        y, test_y = _numbers(train, asked.label, asked.file, names), _numbers(test, asked.label, where, names)
        classes, scale = len(names), None
    x, test_x = _examples(train, test, asked)
    return Data(x, torch.from_numpy(y), test_x, torch.from_numpy(test_y), classes, asked.file, groups, scale)


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
    columns = [features(train, test, name, asked.file) for name in names]
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


def _classes(rows: pa.Table, asked: TableText) -> list[object]:
    """The different labels in order."""
    values = rows.column(asked.label).unique().to_pylist()
    if any(value is None or value != value for value in values):
        raise LocalError(f"{asked.file}: column {asked.label!r} has rows without a label")
    for value in (value for value in values if isinstance(value, float) and not value.is_integer()):
        raise LocalError(f"{asked.file}: column {asked.label!r} has {value!r}, which is no class; {NUMBERS}")
    if not 2 <= len(values) <= MOST_WORDS:
        raise LocalError(
            f"{asked.file}: column {asked.label!r} has {len(values):,} different labels; classes are 2 to "
            f"{MOST_WORDS}; {NUMBERS}"
        )
    return sorted(values)


def _numbers(rows: pa.Table, label: str, file: str, classes: list[object]) -> np.ndarray:
    """Each row's class."""
    number = {value: place for place, value in enumerate(classes)}
    values = rows.column(label).to_pylist()
    strange = next((value for value in values if value not in number), classes[0])
    if strange not in number:
        raise LocalError(f"{file}: label {strange!r} is none of the training rows' {len(classes)} classes")
    return np.array([number[value] for value in values], np.int64)


def _owners(rows: pa.Table, name: str) -> np.ndarray:
    """Each row's owner, numbered in order of appearance."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in rows.column(name).to_pylist()], np.int64)
