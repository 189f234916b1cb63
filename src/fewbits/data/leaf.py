"""LEAF's data sets in its JSON schema: users, and each user's x and y (Caldas et al. 2018)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.errors import LocalError

FILES = "train/*.json and test/*.json of LEAF below --data-dir; with --split natural, a client is a user"
LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"  # LEAF's 80
VOID = -100  # a target that is not counted: LEAF predicts the letter behind a window alone
SETS: Mapping[str, DataInfo] = {
    "femnist": DataInfo((1, 28, 28), 62, f"handwritten characters by writer; {FILES}"),
    "leaf-shakespeare": DataInfo((80,), len(LETTERS), f"the letter behind 80 others, by speaking part; {FILES}"),
}


def leaf(name: str, folder: Path | None) -> Data:
    """Read one of `SETS`.

    A file is an object with `users`, a list, and `user_data`, which has x and y for each of them. FEMNIST's x are 784
    numbers in [0, 1], which become (1, 28, 28) in [-1, 1]; y is a class. Shakespeare's x are 80 letters, y is the next
    one. Its targets (80,) have the 79 letters before at -100, which no loss and no accuracy counts. groups: users in
    order of appearance.

    Raises:
        LocalError: a file is missing, is not of this schema, or has other values.
    """
    if folder is None:
        raise LocalError(f"load: {name} needs data_dir, a folder with LEAF's train/*.json and test/*.json")
    read = _digits if name == "femnist" else _letters
    train_x, train_y, groups = _part(folder, "train", read)
    test_x, test_y, _ = _part(folder, "test", read)
    return Data(train_x, train_y, test_x, test_y, SETS[name].classes, name, groups)


Read = Callable[[list[Any], list[Any]], tuple[np.ndarray, np.ndarray]]


def _part(folder: Path, part: str, read: Read) -> tuple[Tensor, Tensor, np.ndarray]:
    """All rows of the files of one part, and the number of each one's user."""
    files = sorted(path for path in folder.rglob("*.json") if path.parent.name == part)
    if not files:
        raise LocalError(f"load: there is no {part}/*.json below {folder}; LEAF's preprocess.sh makes them")
    xs: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    users: dict[str, int] = {}
    groups: list[np.ndarray] = []
    for file in files:
        for user, x, y in _users(file):
            try:
                rows, targets = read(x, y)
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                raise LocalError(f"load: {file}: user {user!r}: {error}") from None
            xs.append(rows)
            ys.append(targets)
            groups.append(np.full(len(rows), users.setdefault(user, len(users)), np.int64))
    if not sum(map(len, xs)):
        raise LocalError(f"load: the {part}/*.json below {folder} have no examples")
    x, y = torch.from_numpy(np.concatenate(xs)), torch.from_numpy(np.concatenate(ys))
    return x, y, np.concatenate(groups)


def _users(file: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Each user with examples: its name, x and y."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LocalError(f"load: {file} cannot be read as JSON: {error}") from None
    users, data = (found.get(key) for key in ("users", "user_data")) if isinstance(found, dict) else (None, None)
    if not isinstance(users, list) or not isinstance(data, dict):
        raise LocalError(f"load: {file} should be LEAF's: an object with a list `users` and an object `user_data`")
    for user in users:
        rows = data.get(user) if isinstance(user, str) else None
        x, y = (rows.get(key) for key in ("x", "y")) if isinstance(rows, dict) else (None, None)
        if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
            raise LocalError(f"load: {file}: user {user!r} should have lists x and y of one length in user_data")
        if x:
            yield user, x, y


def _digits(x: list[Any], y: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1, 28, 28) float32 in [-1, 1], and (n,) classes."""
    rows, labels = np.array(x, np.float32), np.array(y)
    if rows.shape != (len(x), 28 * 28) or not (rows >= 0).all() or not (rows <= 1).all():
        raise ValueError(f"x should be 784 numbers in [0, 1] each; it is {rows.shape}")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not 0 <= labels.min() <= labels.max() < 62:
        raise ValueError("y should be classes in 0..61")
    return (2 * rows - 1).reshape(-1, 1, 28, 28), labels.astype(np.int64)


def _letters(x: list[Any], y: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 80) letter numbers, and (n, 80) targets: the next letter at the last place."""
    if not all(isinstance(row, str) and len(row) == 80 for row in x) or not all(
        isinstance(letter, str) and len(letter) == 1 for letter in y
    ):
        raise ValueError("x should be texts of 80 letters, and y one letter each")
    number = {letter: place for place, letter in enumerate(LETTERS)}
    strange = next((letter for text in (*x, *y) for letter in text if letter not in number), None)
    if strange is not None:
        raise ValueError(f"letter {strange!r} is none of LEAF's {len(LETTERS)}")
    rows = np.array([[number[letter] for letter in row] for row in x], np.int64)
    targets = np.full_like(rows, VOID)
    targets[:, -1] = [number[letter] for letter in y]
    return rows, targets
