"""Data sets by name."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from fewbits.checks import check_whole
from fewbits.data.dataset import Data
from fewbits.data.digits import digits
from fewbits.data.images import SETS, images
from fewbits.data.shakespeare import shakespeare
from fewbits.errors import LocalError

NAMES = ("digits", *SETS, "shakespeare")


def load(name: str, data_dir: str | PathLike[str] | None = None, *, limit: int | None = None) -> Data:
    """Load a data set.

    digits: 1,797 images of 8x8 that scikit-learn brings; needs no folder.
    mnist, cifar10: parquet files as published, train-*.parquet and test-*.parquet anywhere below `data_dir/name`, or
    below `data_dir` where there is no such folder; without data_dir, through the `datasets` library.
    shakespeare: a text file input.txt below `data_dir/name` or `data_dir`; groups are the speaking parts.
    `limit`: at most so many training and so many test examples (the first ones; only these are decoded).

    LocalError names the valid names, the folder and the pattern that was looked for, or the library that is missing.

    >>> data = load("digits")
    >>> data.train_x.shape, data.test_x.shape, data.classes
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]), 10)
    """
    if name not in NAMES:
        raise LocalError(f"load: expected a data set among {', '.join(NAMES)}; got {name!r}")
    if limit is not None:
        check_whole("load: limit", limit, 1, numpy=True)
    if name == "digits":
        return digits().first(limit)
    folder = None if data_dir is None else _folder(Path(data_dir), name)
    if name == "shakespeare":
        return shakespeare(folder).first(limit)
    return images(name, folder, limit)


def _folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        raise LocalError(f"load: no folder {root} to find {name} in; give the folder its files lie below as data_dir")
    return root / name if (root / name).is_dir() else root
