"""The data that a caller gives, as tensors: one (x, y) pair for each client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fewbits.errors import LocalError
from fewbits.learn.outputs import described

Pair = tuple[Tensor, Tensor]
FORM = "an (x, y) pair of tensors or NumPy arrays, examples first"


def pairs(clients: object, who: str = "client") -> list[Pair]:
    """One pair of tensors for each client; NumPy arrays become tensors, float64 ones float32.

    Args:
        clients: any iterable of (x, y) pairs, such as a list or `zip(xs, ys)`.
        who: "client" or "node".

    Raises:
        LocalError: a pair is none, or its x and y have other rows than the others'.
    """
    if isinstance(clients, Mapping):
        raise LocalError(f"{who}s must be a list with {FORM} for each {who}; got a dict; give list(them.values())")
    if not isinstance(clients, Iterable) or isinstance(clients, str | Tensor | np.ndarray | Dataset | DataLoader):
        raise LocalError(f"{who}s must be a list with {FORM} for each {who}; got {described(clients)}")
    found = [pair(client, f"{who} {number}") for number, client in enumerate(clients)]
    if not found:
        raise LocalError(f"give at least one {who}, as {FORM}")
    for number, (x, y) in enumerate(found):
        if len(x) != len(y):
            raise LocalError(f"{who} {number} has {len(x)} rows of x and {len(y)} of y")
    for part, tensors in (("x", [x for x, _ in found]), ("y", [y for _, y in found])):
        _check_alike(part, tensors, who)
    return found


def pair(value: object, what: str) -> Pair:
    """The (x, y) of one client, or of the test set; `what` names it."""
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        value = value.tensors
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise LocalError(f"{what} must be {FORM}; got {described(value)}{_pair_hint(value)}")
    x, y = value
    return tensor(x, f"x of {what}"), tensor(y, f"y of {what}")


def tensor(value: object, what: str) -> Tensor:
    """A dense tensor of one dimension or more, without a gradient; LocalError says how to make one."""
    if isinstance(value, np.ndarray):
        value = _from_numpy(value, what)
    if not isinstance(value, Tensor):
        raise LocalError(f"{what} must be a tensor or a NumPy array; got {described(value)}{_tensor_hint(value)}")
    if value.is_nested or value.is_meta or value.layout != torch.strided or value.dim() == 0:
        kind = "nested" if value.is_nested else f"{described(value)} {value.layout} on {value.device}"
        raise LocalError(f"{what} must be a dense tensor, examples first; got {kind}")
    return value.detach()


def _from_numpy(array: np.ndarray, what: str) -> Tensor:
    """Floats as float32 and integers as int64, like torch's models and losses; uint8 stays, for pixels."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise LocalError(f"{what} has masked values, which a tensor cannot have; fill them or leave the rows out")
    if array.dtype.kind not in "fiub":
        raise LocalError(f"{what} must hold numbers; got a NumPy array {array.shape} of {array.dtype}")
    kind = {"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.uint8 if array.dtype == np.uint8 else np.int64)
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(kind).max:
        raise LocalError(f"{what} must fit {np.dtype(kind)}; got {array.max()}")
    return torch.from_numpy(
        np.require(np.asarray(array), dtype=kind, requirements=["C", "W"])
    )  # torch takes no other strides


def _check_alike(part: str, tensors: Sequence[Tensor], who: str) -> None:
    there = [(number, x) for number, x in enumerate(tensors) if len(x)]
    for number, x in there:
        first, like = there[0]
        if x.shape[1:] != like.shape[1:] or x.dtype != like.dtype or x.device != like.device:
            raise LocalError(
                f"{part} must be alike for all {who}s but for the number of rows; {who} {first} has "
                f"{described(like)} on {like.device}, {who} {number} {described(x)} on {x.device}"
                + (
                    "; pad sequences to one length"
                    if x.dim() == like.dim() > 1 and x.shape[1:] != like.shape[1:]
                    else ""
                )
            )


def _pair_hint(value: object) -> str:
    if isinstance(value, DataLoader):
        return "; give tuple(map(torch.cat, zip(*loader)))"
    if isinstance(value, Dataset):
        return "; give torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])"
    if isinstance(value, Mapping):
        return '; give (them["x"], them["y"])'
    return ""


def _tensor_hint(value: object) -> str:
    if isinstance(value, Mapping):
        return "; models of several inputs are not trained here: give one tensor"
    if isinstance(value, list | tuple) and value:
        return "; give torch.stack(it)" if isinstance(value[0], Tensor) else "; give torch.tensor(it)"
    return "; give its .to_numpy()" if hasattr(value, "to_numpy") else ""
