"""Layout: which arrays a model is made of, how each travels, and the plain module whose parameters they are.

Both ends build the same skeleton from it, so that an app may use any framework. The names on the wire, and with them
the bytes, are those of a torch module that has these arrays as its state_dict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from fewbits.engines.flower import schema
from fewbits.engines.flower.npy import dtype_of, numbers
from fewbits.errors import LocalError, WireError
from fewbits.learn.unit_vectors import NamedTensors, names_of_vectors

CODED, EXACT, CARRIED = "coded", "exact", "carried"
KINDS = (CODED, EXACT, CARRIED)
# Statistics, by their last names: a mean or a variance that a lossy codec touches may become negative.
STATISTICS = ("running_*", "moving_*", "num_batches*", "*var", "*variance")
NOTHING = "(nothing)"  # the one parameter, without numbers, of a model whose arrays are all carried


class Entry(NamedTuple):
    """One array of a model."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as NumPy names it
    kind: str = CODED  # through the method's codec; "exact": float32 in its frames; "carried": beside them, as it is


@dataclass(frozen=True)
class Layout:
    """The arrays of a model, in their order. Those in frames travel as float32 and are cast back."""

    entries: tuple[Entry, ...]

    @staticmethod
    def of(arrays: ArrayRecord, exact: Sequence[str] = (), lossless: bool = False, carry_floats: bool = True) -> Layout:
        """Of the arrays that a strategy begins with.

        Integers, bools and complex numbers are carried, and so are constants that are not finite. float64 is where it
        must be exact, for a frame holds float32.

        Args:
            arrays: the model.
            exact: shell patterns on names of arrays that no lossy codec may touch, besides `STATISTICS` and
                spectral norm's vectors.
            lossless: whether the method is.
            carry_floats: whether float64 may be carried; no where frames are summed.

        Raises:
            LocalError: an array is of no such type, or a pattern matches none.
        """
        found = {name: _read(array, name, "compress") for name, array in arrays.items()}
        for pattern in exact:
            if not any(fnmatchcase(name, pattern) for name in found):
                raise LocalError(f"compress: exact={pattern!r} matches no array; there are {sorted(found)}")

        vectors = {name for each in names_of_vectors(found) for name in (each.u, each.v)}

        def kind(name: str, x: np.ndarray) -> str:
            statistic = any(fnmatchcase(name.replace("/", ".").rpartition(".")[2], p) for p in STATISTICS)
            as_it_is = statistic or name in vectors or any(fnmatchcase(name, pattern) for pattern in exact)
            wide = carry_floats and (as_it_is or lossless) and x.dtype.itemsize > 4
            if x.dtype.kind != "f" or wide or not _fits(x):
                return CARRIED
            return EXACT if as_it_is else CODED

        return Layout(tuple(Entry(name, x.shape, str(x.dtype), kind(name, x)) for name, x in found.items()))

    def module(self) -> nn.Module:
        """A module with a parameter, or a buffer, of zeros for every array in frames, by its dotted name."""
        root = NamedTensors()
        for name, shape, _, kind in self.framed():
            try:
                _place(root, name, shape, kind)
            except (KeyError, AttributeError) as error:
                raise LocalError(f"{name!r} cannot be an array's name beside the others: {error}") from None
        for name in self._filler():
            root.register_parameter(name, nn.Parameter(torch.zeros(0)))
        return root

    def framed(self) -> list[Entry]:
        """The entries that frames hold."""
        return [entry for entry in self.entries if entry.kind != CARRIED]

    def _filler(self) -> dict[str, Tensor]:
        return {} if any(entry.kind == CODED for entry in self.entries) else {NOTHING: torch.zeros(0)}

    def tensors(self, arrays: Mapping[str, Array], owner: str) -> dict[str, Tensor]:
        """The arrays in frames as float32 tensors; LocalError names the first that differs, with both shapes."""
        names = [entry.name for entry in self.entries]
        if set(arrays) != set(names):
            missing, extra = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
            raise LocalError(f"{owner}: the arrays differ from the server's; missing {missing}, not there {extra}")
        return self._filler() | {e.name: _tensor(arrays[e.name], e, owner) for e in self.framed()}

    def carried(self, arrays: Mapping[str, Array], owner: str) -> dict[str, np.ndarray]:
        """The arrays that travel as they are; LocalError names the first of another shape."""
        found = {e.name: _read(arrays[e.name], e.name, owner) for e in self.entries if e.kind == CARRIED}
        for entry in self.entries:
            if entry.kind == CARRIED and found[entry.name].shape != entry.shape:
                raise LocalError(
                    f"{owner}: {entry.name} has shape {found[entry.name].shape}; the server's has {entry.shape}"
                )
        return found

    def check_carried(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same; WireError unless they are the layout's carried arrays."""
        expected = {entry.name: entry.shape for entry in self.entries if entry.kind == CARRIED}
        came = {name: x.shape for name, x in found.items()}
        if came != expected:
            raise WireError(f"the carried arrays must be of {expected}; got {came}"[:600])
        return found

    def not_finite(
        self, tensors: Mapping[str, Tensor], carried: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
    ) -> str:
        """The first array with NaN or infinite values that had none before; empty when there is none."""
        found = {name: x.numpy() for name, x in tensors.items()} | dict(carried)
        bad = (
            n for n, x in found.items() if not np.isfinite(x).all() and np.isfinite(before.get(n, np.zeros(1))).all()
        )
        return next(bad, "")

    def record(self, tensors: Mapping[str, Tensor], carried: Mapping[str, np.ndarray]) -> ArrayRecord:
        """An ArrayRecord like the one that the strategy began with."""
        return ArrayRecord(
            {
                name: Array(carried[name] if kind == CARRIED else tensors[name].numpy().astype(dtype))
                for name, _, dtype, kind in self.entries
            }
        )

    def dump(self) -> bytes:
        """For a client that knows nothing yet."""
        return json.dumps({"entries": self.entries}, separators=(",", ":")).encode()

    @staticmethod
    def load(data: bytes, most: int = 2**32) -> Layout:
        """Undo `dump`; WireError on more than `most` numbers in frames, or on anything that `dump` does not write."""
        found = schema.read(data, {"entries": _entries}, "the layout of a model")
        entries = tuple(Entry(name, tuple(shape), dtype, kind) for name, shape, dtype, kind in found.get("entries", ()))
        total = sum(math.prod(entry.shape) for entry in entries if entry.kind != CARRIED)
        if total > most:
            raise WireError(f"the layout has {total} numbers; at most {most} are taken")
        return Layout(entries)


def _entries(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise schema.refuse(name, "a list of arrays", value)
    names = set()
    for item in value:
        if not isinstance(item, list) or len(item) != 4:
            raise schema.refuse(name, "a list of [name, shape, dtype, kind]", item)
        schema.text()(f"{name}: a name", item[0])
        schema.shape(f"{name}: the shape of {item[0]!a}", item[1])
        schema.one_of(*KINDS)(f"{name}: the kind of {item[0]!a}", item[3])
        if dtype_of(item[2]).kind != "f" and item[3] != CARRIED:
            raise schema.refuse(f"{name}: the dtype of {item[0]!a}", "of floats, as it is in frames", item[2])
        names.add(item[0])
    if len(names) != len(value):
        raise schema.refuse(name, "arrays of different names", [item[0] for item in value])


def _fits(x: np.ndarray) -> bool:
    """Whether float32 can hold it."""
    return bool((np.abs(x) <= np.finfo(np.float32).max).all())


def _place(root: nn.Module, name: str, shape: tuple[int, ...], kind: str) -> None:
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if kind == EXACT:
        owner.register_buffer(last, torch.zeros(shape))
    else:
        owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))


def _read(array: Array, name: str, owner: str) -> np.ndarray:
    """The numbers, once the file itself has said that it holds so many."""
    try:
        return numbers(array.data)
    except WireError as error:
        raise LocalError(f"{owner}: {name} is no array: {error}") from None


def _tensor(array: Array, entry: Entry, owner: str) -> Tensor:
    found = _read(array, entry.name, owner)
    if found.shape != entry.shape or found.dtype.kind != "f":
        raise LocalError(
            f"{owner}: {entry.name} has shape {found.shape} of {found.dtype}; the server's has shape {entry.shape}"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return torch.from_numpy(np.array(found, np.float32, order="C"))
