"""Partition training examples among clients.

flwr_datasets has partitioners, too. They take 2 s to import and 1 to 2 s for 1,000 clients, and they need a `datasets`
table. They give up when a skewed Dirichlet draw leaves a client without examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.choices import nearest
from fewbits.errors import LocalError
from fewbits.rng import Key

FORMS = "iid, dirichlet:A with A > 0, classes:K with K >= 1, or natural"


def partition(
    labels: Tensor | np.ndarray, split: str, clients: int, key: Key, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Divide training examples among clients.

    Args:
        labels: (n,) class numbers, whole and 0 or more; iid and natural take any (n, ...).
        split: "iid" gives equal shares of a permutation.
            "dirichlet:A" divides each class by proportions from a symmetric Dirichlet(A) over the clients (Yurochkin et
            al. 2019). Smaller A gives more skew. An empty client takes an example from the largest one. Beyond what
            floats can draw, A is taken as its limit: a class goes to one client, or to all equally.
            "classes:K" gives each client K classes. All classes have equally many clients, within one, and their
            examples are shared equally, as in LBGM's experiments (K = 3, Azam et al. 2022). Every class needs a client.
            "natural" makes a client of each group, or of a random choice of groups when there are more than clients;
            `split_notes` says what it leaves out.
        clients: how many there are.
        key: the same key gives the same partition; for dirichlet, under one version of NumPy.
        groups: (n,) group numbers, for natural.

    Returns:
        Row numbers of each client: disjoint, ascending, one or more.  # clients x (n_c,) int64

    Raises:
        LocalError: the split is unknown, labels are no class numbers, there are too few examples, classes or groups,
            or a class would be left out.

    >>> [len(rows) for rows in partition(np.zeros(10), "iid", 3, Key(0))]
    [4, 3, 3]
    """
    labels = _array(labels)
    if not isinstance(split, str):
        raise _bad(split)
    check_whole("partition: clients", clients, numpy=True)
    if not 1 <= clients <= len(labels):
        raise LocalError(f"partition: need 1 to {len(labels)} clients, one example each; got {clients}")
    name, _, value = split.partition(":")
    if split == "iid":
        parts = np.array_split(key.permutation(len(labels)), clients)
    elif split == "natural":
        parts = _natural(groups, len(labels), clients, key)
    elif name in ("dirichlet", "classes") and labels.shape[1:] == (1,) and labels.dtype.kind == "f":
        raise LocalError(f"partition: {split} goes by classes, and here a number is predicted; give iid or natural")
    elif name == "dirichlet":
        parts = _dirichlet(_class_numbers(labels, split), _number(split, value), clients, key)
    elif name == "classes":
        parts = _classes(_class_numbers(labels, split), _number(split, value), clients, key)
    else:
        raise _bad(split)
    return [np.sort(part).astype(np.int64) for part in parts]


def split_notes(
    labels: Tensor | np.ndarray, split: str, parts: Sequence[np.ndarray], groups: np.ndarray | None = None
) -> list[str]:
    """Sentences about the examples, classes and groups that a partition leaves out, and about clients of one example.

    Args:
        labels: as for `partition`.
        split: as for `partition`.
        parts: what `partition` gave.
        groups: as for `partition`.

    >>> split_notes(np.zeros(6), "natural", [np.arange(4)], np.array([0, 0, 0, 0, 1, 1]))
    ['split natural leaves out 2 of 6 examples and 1 of 2 groups']
    """
    labels = _array(labels)
    used = np.concatenate(list(parts))
    lost = [f"{len(labels) - len(used):,} of {len(labels):,} examples"]
    if labels.ndim == 1 and labels.dtype.kind in "iub":
        lost += _lost(labels, used, "classes")
    lost += [] if groups is None else _lost(groups, used, "groups")
    notes = []
    if len(used) < len(labels):
        notes.append(f"split {split} leaves out {' and '.join(lost)}")
    single = sum(len(part) == 1 for part in parts)
    if single and len(parts) < len(labels) and split.startswith("dirichlet:"):
        notes.append(f"split {split} gives {single:,} of {len(parts):,} clients one example alone")
    return notes


def _lost(names: np.ndarray, used: np.ndarray, what: str) -> list[str]:
    there, left = len(np.unique(names)), len(np.unique(names[used]))
    return [f"{there - left:,} of {there:,} {what}"] if left < there else []


def _array(labels: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.float() if labels.is_floating_point() else labels  # NumPy has no bfloat16
    found = np.asarray(labels)
    if found.ndim == 0:
        raise LocalError(f"partition: labels must be (n,), one per example; got {labels!r}")
    return found


def _class_numbers(labels: np.ndarray, split: str) -> np.ndarray:
    """The labels as int64; LocalError when they are no class numbers."""
    if labels.ndim != 1:
        raise LocalError(f"partition: {split} needs one label per example; got labels of shape {labels.shape}")
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((np.mod(labels, 1) == 0).all()))
    if not whole:
        raise LocalError(
            f"partition: {split} needs class numbers as labels; got {labels.dtype} such as {labels[0]}; "
            "for other targets use iid or natural"
        )
    if labels.min() < 0:
        raise LocalError(
            f"partition: {split} needs class numbers of 0 or more; got {labels.min()}; leave such rows out"
        )
    return labels.astype(np.int64)


def hold_out(
    parts: Sequence[np.ndarray], share: float, key: Key, unfit: Collection[int] = ()
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Take a share of every client's rows as test rows of its personal model: (the rest, the test rows).

    Args:
        parts: row numbers of each client.
        share: between 0 and 1; at least one row is taken and one is left.
        key: decides which rows.
        unfit: clients whose turns are skipped; they keep their rows.

    Raises:
        LocalError: the share is not between 0 and 1, or a client has one row only.

    >>> train, test = hold_out([np.arange(10)], 0.2, Key(0))
    >>> len(train[0]), len(test[0])
    (8, 2)
    """
    train, test = [], []
    for client, rows in enumerate(parts):
        if client in unfit:
            train.append(rows)
            test.append(rows)
            continue
        left, taken = held_out_rows(len(rows), share, key.fold(client), f"client {client}")
        train.append(np.sort(rows[left]))
        test.append(np.sort(rows[taken]))
    return train, test


def check_share(share: object) -> None:
    """LocalError unless this is a share of a client's examples, between 0 and 1."""
    check_number("holdout", share, "(0, 1)", numpy=True, hint=", such as 0.2")


def held_out_rows(size: int, share: float, key: Key, who: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of examples that are left, and of those that are held out; both ascend.

    Args:
        size: examples of one client.
        share: between 0 and 1; at least one is taken and one is left.
        key: decides which ones.
        who: whose they are.

    Raises:
        LocalError: as for `hold_out`.

    >>> [len(rows) for rows in held_out_rows(10, 0.2, Key(0), "client 0")]
    [8, 2]
    """
    check_share(share)
    if size < 2:
        examples = f"{size} example{'' if size == 1 else 's'}"
        raise LocalError(f"holdout: {who} has {examples}; to hold one out it needs two")
    count = min(size - 1, max(1, round(share * size)))
    order = key.permutation(size)
    return np.sort(order[count:]), np.sort(order[:count])


def _bad(split: object) -> LocalError:
    near = nearest(str(split).partition(":")[0], ("iid", "dirichlet", "classes", "natural"))
    hint = {"dirichlet": "; did you mean 'dirichlet:0.5'?", "classes": "; did you mean 'classes:2'?"}
    meant = "" if near is None else hint.get(near, f"; did you mean {near!r}?")
    return LocalError(f"partition: split must be {FORMS}; got {split!r}{meant}")


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
        drawn = key.fold("dirichlet", int(label))
        rows = np.flatnonzero(labels == label)
        rows = rows[drawn.permutation(len(rows))]
        draw = _shares(np.random.Generator(np.random.Philox(drawn.fold("shares").word())), alpha, clients)
        cuts = np.rint(np.cumsum(draw)[:-1] * len(rows)).astype(np.int64)
        for share, part in zip(shares, np.split(rows, cuts), strict=True):
            share.append(part)
    return _fill([np.concatenate(share) for share in shares])


def _shares(generator: np.random.Generator, alpha: float, clients: int) -> np.ndarray:
    """A draw from the symmetric Dirichlet(alpha), or from its limit where floats underflow or overflow."""
    with np.errstate(all="ignore"):
        draw = generator.dirichlet(np.full(clients, alpha))
    if np.isfinite(draw).all() and abs(draw.sum() - 1) < 1e-6:
        return draw
    if alpha > 1:
        return np.full(clients, 1 / clients)
    return np.eye(clients)[generator.integers(clients)]


def _fill(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Give every empty client one example of the client with the most examples at that moment."""
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
    _check_classes(count, len(names), clients)
    k, noise = int(count), key.fold("holders").uniform(clients * len(names)).reshape(clients, len(names))
    clients_of = np.zeros(len(names), np.int64)
    holders: list[list[int]] = [[] for _ in names]
    for client in range(clients):  # the K classes that have fewest holders so far, ties at random
        for c in np.lexsort((noise[client], clients_of))[:k]:
            clients_of[c] += 1
            holders[c].append(client)
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for c, label in enumerate(names):
        rows = np.flatnonzero(labels == label)
        if len(rows) < clients_of[c]:
            raise LocalError(f"partition: class {label} has {len(rows)} examples for its {clients_of[c]} clients")
        rows = rows[key.fold("classes", int(label)).permutation(len(rows))]
        for client, part in zip(holders[c], np.array_split(rows, max(1, clients_of[c])), strict=False):
            shares[client].append(part)
    return [np.concatenate(share) for share in shares]


def _check_classes(count: float, classes: int, clients: int) -> None:
    if count != int(count) or count > classes:
        raise LocalError(f"partition: classes:K needs a whole K of at most {classes} classes; got {count:g}")
    if count * clients < classes:
        raise LocalError(
            f"partition: classes:{count:g} for {clients} clients leaves out {classes - count * clients:g} of "
            f"{classes} classes; give {-(-classes // int(count))} clients or more, or classes:{-(-classes // clients)}"
        )


def check_split(split: object, clients: int | None = None, classes: int | None = None) -> None:
    """Raise LocalError for what is no split, and for one that no data of so many classes can have; no data is read.

    >>> check_split("classes:3", 4, 10)
    """
    if split in ("iid", "natural"):
        return
    name, _, value = split.partition(":") if isinstance(split, str) else ("", "", "")
    if name not in ("dirichlet", "classes") or not isinstance(split, str):
        raise _bad(split)
    number = _number(split, value)
    if name == "classes" and clients is not None and classes is not None:
        _check_classes(number, classes, clients)


def _natural(groups: np.ndarray | None, examples: int, clients: int, key: Key) -> list[np.ndarray]:
    if groups is None or len(groups) != examples:
        raise LocalError("partition: natural needs a group for each example; this data set has none")
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if clients > len(names):
        raise LocalError(f"partition: natural has {len(names)} groups; got {clients} clients")
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    return [rows[group] for group in key.fold("natural").subset(clients, len(names))]
