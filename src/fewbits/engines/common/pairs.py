"""The data that a caller gives, as tensors: one (x, y) pair for each client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fewbits.errors import LocalError
from fewbits.learn.outputs import described

Pair = tuple[Tensor, Tensor]


class Table(Protocol):
    """A table or a column of one."""

    def to_numpy(self) -> np.ndarray:
        """Its values."""
        ...


FORM = "an (x, y) pair of tensors or NumPy arrays, examples first"
NO_EXAMPLE = "it has no example"


def pairs(clients: object, who: str = "client") -> tuple[list[Pair], dict[int, str]]:
    """One pair of tensors for each client; NumPy arrays become tensors, float64 ones float32.

    Beside them why the data of some clients do not fit, by client: no rows, another number of x than of y, or another
    shape, dtype or device than most clients have. Their pairs are empty.

    Args:
        clients: any iterable of (x, y) pairs, such as a list or `zip(xs, ys)`.
        who: "client" or "node".

    Raises:
        LocalError: a pair is none, more than half of the clients do not fit, or two kinds of data are equally common.
    """
    if isinstance(clients, Mapping):
        raise LocalError(f"{who}s must be a list with {FORM} for each {who}; got a dict; give list(them.values())")
    if not isinstance(clients, Iterable) or isinstance(clients, str | Tensor | np.ndarray | Dataset | DataLoader):
        raise LocalError(f"{who}s must be a list with {FORM} for each {who}; got {described(clients)}")
    found = [pair(client, f"{who} {number}") for number, client in enumerate(clients)]
    if not found:
        raise LocalError(f"give at least one {who}, as {FORM}")
    unfit = _unfit(found, who)
    check_unfit(unfit, len(found), who)
    x, y = next(one for number, one in enumerate(found) if number not in unfit)
    return [(x[:0], y[:0]) if number in unfit else one for number, one in enumerate(found)], unfit


def check_unfit(unfit: Mapping[int, str], everybody: int, who: str = "client") -> None:
    """LocalError where more than half of the clients do not fit: then the data as a whole are at fault.

    >>> check_unfit({1: NO_EXAMPLE}, everybody=2)
    """
    if 2 * len(unfit) > everybody:
        first, reason = min(unfit.items())
        more = f"; so it is with {len(unfit)} of {everybody} {who}s" if len(unfit) > 1 else ""
        raise LocalError(f"{who} {first}: {reason}{more}")


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
    if is_table(value):
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        value = _from_numpy(value, what)
    if not isinstance(value, Tensor):
        raise LocalError(f"{what} must be a tensor or a NumPy array; got {described(value)}{_tensor_hint(value)}")
    if value.is_nested or value.is_meta or value.layout != torch.strided or value.dim() == 0:
        kind = "nested" if value.is_nested else f"{described(value)} {value.layout} on {value.device}"
        raise LocalError(f"{what} must be a dense tensor, examples first; got {kind}")
    return value.detach()


def is_table(value: object) -> TypeGuard[Table]:
    """Whether it is a table or a column of one, as pandas and polars have them."""
    return callable(getattr(value, "to_numpy", None))


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


def _unfit(found: Sequence[Pair], who: str) -> dict[int, str]:
    """Why clients do not fit, by client; LocalError where as many clients have one kind of data as another."""
    unfit = {number: why for number, one in enumerate(found) if (why := _miscounted(*one))}
    there = [number for number in range(len(found)) if number not in unfit]
    if not there:
        return unfit
    kinds = Counter(_kind(found[number]) for number in there)
    kind, most = kinds.most_common(1)[0]
    like = next(number for number in there if _kind(found[number]) == kind)
    others = {n: _difference(found[n], found[like], f"{who} {like}") for n in there if _kind(found[n]) != kind}
    if list(kinds.values()).count(most) > 1:
        number, why = next(iter(others.items()))
        raise LocalError(f"{who} {number}: {why}; no kind of data is that of most {who}s")
    return dict(sorted((unfit | others).items()))


def _miscounted(x: Tensor, y: Tensor) -> str:
    if len(x) != len(y):
        return f"it has {len(x)} rows of x and {len(y)} of y"
    return "" if len(x) else NO_EXAMPLE


def _kind(pair: Pair) -> tuple[object, ...]:
    """What all clients must have in common."""
    return tuple((x.shape[1:], x.dtype, x.device) for x in pair)


def _difference(pair: Pair, usual: Pair, whose: str) -> str:
    """How the pair differs from a usual one."""
    name, x, like = next(
        (name, x, like) for name, x, like in zip("xy", pair, usual, strict=True) if _kind((x, x)) != _kind((like, like))
    )
    padded = x.dim() == like.dim() > 1 and x.shape[1:] != like.shape[1:]
    places = ("", "") if x.device == like.device else (f" on {x.device}", f" on {like.device}")
    return (
        f"its {name} is {described(x)}{places[0]}, that of {whose} {described(like)}{places[1]}"
        f"{'; pad sequences to one length' if padded else ''}"
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
