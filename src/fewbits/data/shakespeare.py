"""Next-character prediction on plays: every speaking part is a natural client (as in LEAF, Caldas et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.errors import LocalError

WINDOW = 80  # characters; as in LEAF, but we predict the next character at each position, not only at the last
INFO = DataInfo(
    (WINDOW,),
    65,  # characters of tinyshakespeare
    "characters of plays; input.txt below --data-dir; with --split natural, a client is a speaking part",
)
HELD_OUT = 0.1  # of every speaker's windows, the last ones: unseen text of a known speaker


def shakespeare(folder: Path | None) -> Data:
    """Windows of 80 characters from input.txt, whose blocks are "Speaker:", a line break, and the speech.

    Windows do not overlap, and each belongs to one speaker. A speaker with fewer than 81 characters is left out; one
    with a single window has no test window. Targets are the inputs shifted by one. groups: speakers in order of
    appearance.
    """
    text = _text(folder)
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    train, test, groups = [], [], []
    for part in _parts(text).values():
        codes = np.array([alphabet[character] for character in part], np.int64)
        count = (len(codes) - 1) // WINDOW
        if count == 0:
            continue
        windows = [codes[start : start + WINDOW + 1] for start in range(0, count * WINDOW, WINDOW)]
        test_count = min(max(1, round(HELD_OUT * count)), count - 1)
        train += windows[: count - test_count]
        test += windows[count - test_count :]
        groups.append(count - test_count)
    if not test:
        raise LocalError(f"load: input.txt below {folder} needs speakers with {2 * WINDOW + 1} characters or more")
    rows, test_rows = torch.from_numpy(np.stack(train)), torch.from_numpy(np.stack(test))
    halves = (part.contiguous() for x in (rows, test_rows) for part in (x[:, :-1], x[:, 1:]))
    return Data(*halves, classes=len(alphabet), name="shakespeare", groups=np.repeat(np.arange(len(groups)), groups))


def _text(folder: Path | None) -> str:
    if folder is None:
        raise LocalError("load: shakespeare needs data_dir, a folder with the plays as input.txt (tinyshakespeare)")
    files = sorted(folder.rglob("input.txt"))
    if len(files) != 1:
        raise LocalError(f"load: expected one input.txt below {folder}, the plays as text; found {len(files)}")
    try:
        return files[0].read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LocalError(f"load: {files[0]} is not UTF-8 text: {error}") from None


def _parts(text: str) -> dict[str, str]:
    """Each speaker's text, in order."""
    parts: dict[str, str] = {}
    for block in text.split("\n\n"):
        speaker, colon, speech = block.partition(":\n")
        if colon and "\n" not in speaker:
            parts[speaker] = parts.get(speaker, "") + speech + "\n"
    return parts
