"""Data sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from fewbits.checks import check_whole
from fewbits.choices import unknown
from fewbits.data import digits, leaf, shakespeare
from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.data.images import SETS, images
from fewbits.data.table import is_table, read_text, table
from fewbits.errors import LocalError

INFO: Mapping[str, DataInfo] = {
    "digits": digits.INFO,
    **{name: info for name, (_, info) in SETS.items()},
    "shakespeare": shakespeare.INFO,
    **leaf.SETS,
}
NAMES = tuple(INFO)


def check_name(name: str) -> None:
    """LocalError unless there is a data set of this name, or it is a table's; no file is read."""
    if is_table(name):
        read_text(name)
    elif name not in INFO:
        raise unknown("data set", name, NAMES, ", or give a table, such as people.csv@label=income")


def data_info(name: str) -> DataInfo:
    """The static description of a data set; no file is read but that of a table.

    Args:
        name: one of `NAMES`, or a table as `load` takes it, in the current directory.

    Raises:
        LocalError: there is no such data set.

    >>> data_info("mnist").shape, data_info("mnist").classes
    ((1, 28, 28), 10)
    """
    if is_table(name):
        found = load(name)
        return DataInfo(found.shape, found.classes, f"the table {found.name}")
    check_name(name)
    return INFO[name]


def load(name: str, data_dir: str | PathLike[str] | None = None, *, limit: int | None = None) -> Data:
    """Load a data set.

    Args:
        name: one of `NAMES`; or a table, FILE.csv@label=COLUMN or FILE.parquet@label=COLUMN; with target=COLUMN instead
            of label=, numbers are predicted. More options stand behind a comma: test=FILE, else every fifth row is a
            test row; group=COLUMN, each row's natural owner.
        data_dir: folder with the files, anywhere below `data_dir/name`, or below `data_dir` when there is no such
            folder. mnist and cifar10 are train-*.parquet and test-*.parquet as published; None fetches them through
            the `datasets` library. shakespeare is a text file input.txt. femnist and leaf-shakespeare are train/*.json
            and test/*.json, as LEAF makes them. A table's files are in it; None: in the current directory. digits needs
            no folder.
        limit: at most so many training examples and so many test examples, the first ones; only these are decoded.

    Returns:
        Whole arrays that all clients share; `groups` are the speaking parts of shakespeare, the users of LEAF, or a
        table's group column. Numbers of a table are scaled by mean and deviation of the training rows, and each text of
        a column is a feature of 0 and 1. `scale` says by what a column of numbers to predict was scaled.

    Raises:
        LocalError: the name is unknown, a file is missing or cannot be read, or a library is missing.

    >>> data = load("digits")
    >>> data.train_x.shape, data.test_x.shape, data.classes
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]), 10)
    """
    if is_table(name):
        return table(name, None if data_dir is None else Path(data_dir)).first(limit)
    check_name(name)
    if limit is not None:
        check_whole("load: limit", limit, 1, numpy=True)
    if name == "digits":
        return digits.digits().first(limit)
    folder = None if data_dir is None else _folder(Path(data_dir), name)
    if name == "shakespeare":
        return shakespeare.shakespeare(folder).first(limit)
    if name in leaf.SETS:
        return leaf.leaf(name, folder).first(limit)
    return images(name, folder, limit)


def _folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        raise LocalError(f"load: there is no folder {root} to find {name} in; give the folder of its files as data_dir")
    return root / name if (root / name).is_dir() else root
