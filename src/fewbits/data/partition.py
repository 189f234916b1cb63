"""Dividing training examples among clients.

flwr_datasets has partitioners too. Ours are these few lines because theirs cost 2 s to import and 1 to 2 s for 1,000
clients, want a `datasets` table, and give up when a skewed Dirichlet draw leaves a client without examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fewbits.checks import check_number
from fewbits.errors import LocalError
from fewbits.rng import Key

FORMS = "iid, dirichlet:A with A > 0, classes:K with K >= 1, or natural"


def partition(
    labels: Tensor | np.ndarray, split: str, clients: int, key: Key, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Row numbers of each client: disjoint, ascending, at least one.  # clients x (n_c,) int64

    labels: (n,) class numbers ((n, time) will do for iid and natural). groups: (n,), for natural.
    iid: equal shares of a permutation.
    dirichlet:A: each class is divided by proportions from a symmetric Dirichlet(A) over the clients (Yurochkin et al.
    2019); smaller A: more skew. Whoever would get nothing takes an example from whoever has most.
    classes:K: each client holds K classes; all classes have equally many holders (within one), who share its examples
    equally, as in LBGM's experiments (K = 3, Azam et al. 2022).
    natural: a client is a group; with fewer clients than groups, a random choice of groups.

    The same key gives the same partition (under one NumPy version for dirichlet, whose draws are NumPy's).
    LocalError on another split text, or when there are not enough examples, classes or groups.

    >>> [len(rows) for rows in partition(np.zeros(10), "iid", 3, Key(0))]
    [4, 3, 3]
    """
    labels = np.asarray(labels)
    if not 1 <= clients <= len(labels):
        raise LocalError(f"partition: need 1 to {len(labels)} clients, one example each; got {clients}")
    name, _, value = split.partition(":")
    if split == "iid":
        parts = np.array_split(key.permutation(len(labels)), clients)
    elif split == "natural":
        parts = _natural(groups, len(labels), clients, key)
    elif labels.ndim != 1:
        raise LocalError(f"partition: {split} needs one label per example; got labels of shape {labels.shape}")
    elif name == "dirichlet":
        parts = _dirichlet(labels, _number(split, value), clients, key)
    elif name == "classes":
        parts = _classes(labels, _number(split, value), clients, key)
    else:
        raise _bad(split)
    return [np.sort(part).astype(np.int64) for part in parts]


def hold_out(parts: Sequence[np.ndarray], share: float, key: Key) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Take a share of every client's rows, drawn from the key, for judging its own model: (the rest, what was taken).

    At least one row is taken and one is left. LocalError when the share is not in (0, 1) or a client has one row.
    """
    check_number("holdout", share, "(0, 1)", numpy=True, hint=", such as 0.2")
    left, held = [], []
    for client, rows in enumerate(parts):
        if len(rows) < 2:
            raise LocalError(f"holdout: client {client} has {len(rows)} example; to hold one out it needs two")
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        order = key.fold(client).permutation(len(rows))
        held.append(np.sort(rows[order[:count]]))
        left.append(np.sort(rows[order[count:]]))
    return left, held


def _bad(split: str) -> LocalError:
    return LocalError(f"partition: split must be {FORMS}; got {split!r}")


def _number(split: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _bad(split) from None
    if not 0 < number < float("inf"):
        raise _bad(split)
    return number


def _dirichlet(labels: np.ndarray, alpha: float, clients: int, key: Key) -> list[np.ndarray]:
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        own = key.fold("dirichlet", int(label))
        rows = np.flatnonzero(labels == label)
        rows = rows[own.permutation(len(rows))]
        draw = np.random.Generator(np.random.Philox(own.fold("shares").word())).dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(draw)[:-1] * len(rows)).astype(np.int64)
        for share, part in zip(shares, np.split(rows, cuts), strict=True):
            share.append(part)
    return _fill([np.concatenate(share) for share in shares])


def _fill(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Give every empty client one example of the client that has most at that moment."""
    largest = [(-len(part), client) for client, part in enumerate(parts)]
    heapq.heapify(largest)
    for client, part in enumerate(parts):
        if len(part) == 0:
            size, donor = largest[0]
            parts[client], parts[donor] = parts[donor][-1:], parts[donor][:-1]
            heapq.heapreplace(largest, (size + 1, donor))
    return parts


def _classes(labels: np.ndarray, count: float, clients: int, key: Key) -> list[np.ndarray]:
    names = np.unique(labels)
    if count != int(count) or count > len(names):
        raise LocalError(f"partition: classes:K needs a whole K of at most {len(names)} classes; got {count:g}")
    k, noise = int(count), key.fold("holders").uniform(clients * len(names)).reshape(clients, len(names))
    held = np.zeros(len(names), np.int64)
    holders: list[list[int]] = [[] for _ in names]
    for client in range(clients):  # the K classes that have fewest holders so far, ties at random
        for c in np.lexsort((noise[client], held))[:k]:
            held[c] += 1
            holders[c].append(client)
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for c, label in enumerate(names):
        rows = np.flatnonzero(labels == label)
        if len(rows) < held[c]:
            raise LocalError(f"partition: class {label} has {len(rows)} examples for its {held[c]} clients")
        rows = rows[key.fold("classes", int(label)).permutation(len(rows))]
        for client, part in zip(holders[c], np.array_split(rows, max(1, held[c])), strict=False):
            shares[client].append(part)
    return [np.concatenate(share) for share in shares]


def _natural(groups: np.ndarray | None, examples: int, clients: int, key: Key) -> list[np.ndarray]:
    if groups is None or len(groups) != examples:
        raise LocalError("partition: natural needs a group for each example; this data set has none")
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if clients > len(names):
        raise LocalError(f"partition: natural has {len(names)} groups; got {clients} clients")
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    return [rows[group] for group in key.fold("natural").subset(clients, len(names))]
