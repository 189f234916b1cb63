"""Layout: which arrays a model is made of, and the plain module whose parameters they are.

Both ends build the same skeleton from it, so that an app may use any framework. The names on the wire, and with them
the bytes, are those of a torch module that has these arrays as its state_dict.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from fewbits.errors import LocalError, WireError
from fewbits.links.bundle import pack, unpack

STATISTICS = ("running_mean", "running_var")  # BatchNorm's: buffers, which no lossy codec may touch
HEADER = re.compile(
    rb"\{'descr': '([<>|](?:f[248]|[iu][1248]))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,12}, ?)*\d{0,12})\), \} *\n"
)


@dataclass(frozen=True)
class Layout:
    """Float arrays are exchanged as float32 and cast back; others (num_batches_tracked) stay as the server began."""

    entries: tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape, dtype
    fixed: dict[str, np.ndarray] = field(default_factory=dict, compare=False)  # arrays that are not floats

    @staticmethod
    def of(arrays: ArrayRecord) -> Layout:
        """Of the arrays that a strategy begins with."""
        found = {name: array.numpy() for name, array in arrays.items()}
        entries = tuple((name, x.shape, str(x.dtype)) for name, x in found.items())
        for name, x in found.items():
            if x.dtype.kind not in "fiub":
                raise LocalError(
                    f"compress: {name} is {x.dtype}, which cannot travel; send its real and imaginary part as floats"
                )
        return Layout(entries, {name: x for name, x in found.items() if x.dtype.kind != "f"})

    def module(self) -> nn.Module:
        """A module with a parameter, or a buffer, of zeros for every float array, by its dotted name."""
        root = nn.Module()
        for name, shape, _ in self.floats():
            try:
                _place(root, name, shape)
            except (KeyError, AttributeError) as error:
                raise LocalError(f"{name!r} cannot be an array's name beside the others: {error}") from None
        return root

    def floats(self) -> list[tuple[str, tuple[int, ...], str]]:
        """The entries that are exchanged."""
        return [entry for entry in self.entries if entry[0] not in self.fixed]

    def tensors(self, arrays: ArrayRecord, owner: str) -> dict[str, Tensor]:
        """The float arrays as float32 tensors; LocalError names the first that differs, with both shapes."""
        if list(arrays) != (names := [name for name, _, _ in self.entries]) and set(arrays) != set(names):
            missing, extra = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
            raise LocalError(f"{owner}: the arrays differ from the server's; missing {missing}, not there {extra}")
        return {name: _tensor(arrays[name], name, shape, owner) for name, shape, _ in self.floats()}

    def record(self, tensors: dict[str, Tensor]) -> ArrayRecord:
        """An ArrayRecord like the one that the strategy began with."""
        return ArrayRecord(
            {
                name: Array(self.fixed[name] if name in self.fixed else tensors[name].numpy().astype(dtype))
                for name, _, dtype in self.entries
            }
        )

    def dump(self) -> bytes:
        """For a client that knows nothing yet."""
        head = json.dumps([[name, shape, dtype] for name, shape, dtype in self.entries]).encode()
        return pack([head, *(x.tobytes() for x in self.fixed.values())])

    @staticmethod
    def load(data: bytes, most: int = 2**32) -> Layout:
        """Undo `dump`; WireError on more than `most` numbers, or on anything that `dump` does not write."""
        head, *fixed = unpack(data) or [b""]
        try:
            entries = tuple((name, tuple(shape), np.dtype(dtype)) for name, shape, dtype in json.loads(head))
            total = sum(math.prod(shape) for _, shape, _ in entries)
            if total > most or not all(type(n) is int and 0 <= n <= most for _, shape, _ in entries for n in shape):
                raise WireError(f"the layout has {total} numbers; at most {most} are taken")
            others = [entry for entry in entries if entry[2].kind != "f"]
            arrays = {
                name: np.frombuffer(part, dtype).reshape(shape).copy()
                for (name, shape, dtype), part in zip(others, fixed, strict=True)
            }
        except (ValueError, TypeError, RecursionError) as error:
            raise error if isinstance(error, WireError) else WireError(f"not the layout of a model: {error}") from None
        return Layout(tuple((str(name), shape, str(dtype)) for name, shape, dtype in entries), arrays)


def _place(root: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if last in STATISTICS:
        owner.register_buffer(last, torch.zeros(shape))
    else:
        owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))


def _tensor(array: Array, name: str, shape: tuple[int, ...], owner: str) -> Tensor:
    """The numbers as float32, once the file itself has said that it holds so many."""
    try:
        found = numbers(array.data)
    except WireError as error:
        raise LocalError(f"{owner}: {name} is no array: {error}") from None
    if found.shape != shape:
        raise LocalError(f"{owner}: {name} has shape {found.shape} of {found.dtype}; the server's has shape {shape}")
    return torch.from_numpy(np.ascontiguousarray(found.astype(np.float32)))


def numbers(data: bytes) -> np.ndarray:
    """The array in an .npy file as numpy.save writes it; WireError on any other bytes.

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
