"""The 8x8 digits of scikit-learn: real images without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.errors import LocalError
from fewbits.rng import Key

INFO = DataInfo((1, 8, 8), 10, "1,797 images of 8x8; scikit-learn contains them, so that no folder is needed")
FILE = "data/digits.csv.gz"  # in sklearn.datasets
TEST_SHARE = 0.2  # of every class: the split is stratified and always the same


def digits() -> Data:
    """1,797 images (1, 8, 8) with a fifth of every class as test set: UCI optical digits (Alpaydin and Kaynak 1998)."""
    rows = table()
    pixels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)  # (n, 64) in 0..16, (n,)
    x = torch.from_numpy(pixels / 8 - 1).float().view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        order = Key(0).fold("digits", "test", label).permutation(len(rows))
        test[rows[order[: round(TEST_SHARE * len(rows))]]] = True
    train = torch.from_numpy(~test)
    return Data(x[train], y[train], x[~train], y[~train], INFO.classes, "digits")


def table() -> np.ndarray:
    """An image and its label a row, from scikit-learn's file: to import its reader takes two seconds.  # (n, 65)"""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise LocalError("load: digits needs scikit-learn; pip install 'fewbits[data]'")
    file = Path(found.origin).with_name("datasets") / FILE
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # another version may keep the file elsewhere

    return np.column_stack([np.asarray(part) for part in load_digits(return_X_y=True)])
