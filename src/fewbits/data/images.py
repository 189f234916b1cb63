"""MNIST and CIFAR-10 from their published parquet files: encoded images beside labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.errors import LocalError

if TYPE_CHECKING:
    import pyarrow as pa

FILES = "train-*.parquet and test-*.parquet below --data-dir, or by the datasets library"
SETS = {  # the name on the hub, and what it is
    "mnist": ("ylecun/mnist", DataInfo((1, 28, 28), 10, f"70,000 grey images of 28x28; {FILES}")),
    "cifar10": ("uoft-cs/cifar10", DataInfo((3, 32, 32), 10, f"60,000 colour images of 32x32; {FILES}")),
}
EXTRA = "pip install 'fewbits[data]'"


def images(name: str, folder: Path | None, limit: int | None = None) -> Data:
    """Decode a set of `SETS`. 60,000 images take 3 to 7 s, so nothing is cached on disk."""
    hub, info = SETS[name]
    channels, height, width = info.shape
    tables = {part: _hub(hub, part) if folder is None else _local(name, folder, part) for part in ("train", "test")}
    train, test = (
        _decode(tables[part][:limit], (height, width, channels), f"{name} {part}") for part in ("train", "test")
    )
    return Data(*train, *test, classes=info.classes, name=name)


def _local(name: str, folder: Path, part: str) -> pa.Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LocalError(f"load: {name} needs pyarrow; {EXTRA}") from None
    files = sorted(folder.rglob(f"{part}-*.parquet"))
    if not files:
        raise LocalError(
            f"load: no {part}-*.parquet below {folder}; put the parquet files of {SETS[name][0]!r} there, "
            "or leave data_dir out to fetch them through the datasets library"
        )
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file))
        except (pa.ArrowInvalid, OSError) as error:  # OSError: cut short
            raise LocalError(f"load: {file} cannot be read as parquet: {error}") from None
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise LocalError(f"load: the {part}-*.parquet below {folder} do not fit together: {error}") from None


def _hub(hub: str, part: str) -> pa.Table:
    try:
        from datasets import load_dataset
    except ImportError:
        raise LocalError(f"load: {hub} needs the datasets library, or a data_dir; {EXTRA}") from None
    try:
        return load_dataset(hub, split=part).with_format("arrow")[:]
    except OSError as error:  # no network, no such cache
        raise LocalError(f"load: {hub} could not be fetched; give a data_dir with its parquet files: {error}") from None


def _decode(table: pa.Table, shape: tuple[int, int, int], what: str) -> tuple[Tensor, Tensor]:
    """Pixels (n, channels, height, width) uint8 in channels_last order, and labels (n,) int64."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise LocalError(f"load: {what} needs Pillow; {EXTRA}") from None
    column = next((name for name in ("image", "img") if name in table.column_names), None)
    if column is None or "label" not in table.column_names or table.num_rows == 0:
        raise LocalError(f"load: {what} should have rows with image (or img) and label; has {table.column_names}")
    pixels = np.empty((table.num_rows, *shape), np.uint8)
    for row, cell in enumerate(table.column(column).to_pylist()):
        try:
            with Image.open(io.BytesIO(cell["bytes"])) as image:
                decoded = np.asarray(image)
        except (UnidentifiedImageError, OSError, TypeError) as error:
            raise LocalError(f"load: {what} row {row} is not an encoded image: {error}") from None
        if decoded.size != pixels[row].size or decoded.shape[:2] != shape[:2] or decoded.dtype != np.uint8:
            raise LocalError(f"load: {what} row {row} should be {shape} uint8; got {decoded.shape} {decoded.dtype}")
        pixels[row] = decoded.reshape(shape)
    labels = np.array(table.column("label").to_numpy(), np.int64)
    if labels.min() < 0 or labels.max() > 9:
        raise LocalError(f"load: {what} labels should be 0..9; got {labels.min()}..{labels.max()}")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)
