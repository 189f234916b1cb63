"""The first line of a CSV file: it names the columns, and tells by which character they are apart."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

from fewbits.errors import LocalError

SEPARATORS = ",;\t|"  # that are looked for
LONGEST = 2**20  # bytes of a first line


def separator(file: Path, label: str) -> str:
    """What is between the columns of a CSV file: the first of comma, semicolon, tab and bar that gives the label's.

    Without such a column it is the one that gives most columns.

    Args:
        file: the file.
        label: a column of it.

    Raises:
        OSError: it cannot be read.
        LocalError: its first line is empty, no such line, or not UTF-8.
    """
    with file.open("rb") as content:
        first = content.readline(LONGEST)  # it may end within a character
    try:
        line = codecs.getincrementaldecoder("utf-8-sig")().decode(first).strip("\r\n")
    except UnicodeDecodeError:
        raise LocalError(f"load: {file} is not UTF-8; save it as such") from None
    if not line.strip():
        raise LocalError(f"load: {file} has an empty first line; the first line of a CSV file names its columns")
    try:
        columns = {mark: next(csv.reader([line], delimiter=mark)) for mark in SEPARATORS}
    except csv.Error as error:
        raise LocalError(f"load: the first line of {file} names no columns: {error}") from None
    found = next((mark for mark, names in columns.items() if label in names), None)
    return found or max(SEPARATORS, key=lambda mark: len(columns[mark]))
