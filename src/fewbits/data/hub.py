"""Any data set of the hub, by the datasets library; and columns of encoded images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewbits.data.images import EXTRA
from fewbits.errors import LocalError, words

if TYPE_CHECKING:
    import pyarrow as pa


def hub_parts(name: str) -> dict[str, pa.Table]:
    """The splits of a data set, such as "train" and "test", as tables.

    Raises:
        LocalError: the datasets library is missing, the data set cannot be fetched, or it has no split "train".
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise LocalError(f"load: {name} needs the datasets library; {EXTRA}") from None
    try:
        found = load_dataset(name)
    except Exception as error:  # no network, no such name, a script: the library raises many kinds
        raise LocalError(f"load: {name} could not be fetched: {type(error).__name__}: {words(error)}") from error
    if "train" not in found:
        raise LocalError(f"load: {name} has no split train; it has {', '.join(map(str, found))}")
    return {str(part): found[part].with_format("arrow")[:] for part in found}


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images, as the hub stores them."""
    import pyarrow.types as kinds

    return kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0


def pixels(column: pa.ChunkedArray, what: str) -> Tensor:
    """(n, channels, height, width) uint8; LocalError when one is no image, or has another shape than the first."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise LocalError(f"load: {what} needs Pillow; {EXTRA}") from None
    found: list[np.ndarray] = []
    for row, cell in enumerate(column.to_pylist()):
        try:
            with Image.open(io.BytesIO(cell["bytes"])) as image:
                decoded = np.asarray(image)
        except (UnidentifiedImageError, OSError, TypeError) as error:
            raise LocalError(f"load: {what} row {row} is not an encoded image: {error}") from None
        if decoded.dtype != np.uint8 or decoded.ndim not in (2, 3) or (found and decoded.shape != found[0].shape):
            like = f"{found[0].shape} uint8, as the first" if found else "uint8 pixels"
            raise LocalError(f"load: {what} row {row} should be {like}; got {decoded.shape} {decoded.dtype}")
        found.append(decoded)
    rows = torch.from_numpy(np.stack(found))
    return rows[:, None] if rows.dim() == 3 else rows.permute(0, 3, 1, 2)
