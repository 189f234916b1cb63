"""The bytes of an array: an .npy file as numpy.save writes it, read without trusting what its header says."""

from __future__ import annotations

import math
import re

import numpy as np

from fewbits.errors import WireError

HEADER = re.compile(
    rb"\{'descr': '([<>|](?:f[248]|[iu][1248]|c8|c16|b1))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,12}, ?){0,32}\d{0,12})\), \} *\n"
)
DTYPE = re.compile(r"[<>|=]?(?:float(?:16|32|64)|u?int(?:8|16|32|64)|bool|complex(?:64|128)|[fiuc][1-9]\d?|b1)")


def numbers(data: bytes) -> np.ndarray:
    """The array in an .npy file, as a view of its bytes; WireError on any other bytes.

    numpy.load allocates what the header says, and evaluates the header as Python.
    """
    size = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(data[:8], 0)
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    found = HEADER.fullmatch(data[8 + size : end]) if size and end <= len(data) else None
    if found is None:
        raise WireError("its bytes are not those of an .npy file of numbers")
    dtype, order = np.dtype(found[1].decode()), "F" if found[2] == b"True" else "C"
    shape = tuple(int(n) for n in found[3].split(b",") if n.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - end:
        raise WireError(f"its header says shape {shape} of {dtype}, but {len(data) - end} bytes follow")
    return np.frombuffer(data, dtype, offset=end).reshape(shape, order=order)


def dtype_of(text: object) -> np.dtype:
    """The dtype of that name; WireError on others. numpy.dtype itself evaluates some texts as Python."""
    try:
        if isinstance(text, str) and DTYPE.fullmatch(text):
            return np.dtype(text)
    except TypeError:
        pass
    raise WireError(f"{ascii(text)[:40]} is not the name of a type of numbers")
