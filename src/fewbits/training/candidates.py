"""Which candidates a search for a budget tries at first, and what is beside one of them."""

from __future__ import annotations

from fewbits.training.rehearsed import Candidate

SHARES = (4, 16, 64, 256)  # a subspace has this part of the model's numbers
LEAST = 64  # numbers of a subspace, where the model has many times as many
FACTOR = 3.0  # from one learning rate to the next


def candidates(numbers: int) -> list[str]:
    """What is tried at first for a model of so many numbers, fine and coarse.

    >>> candidates(100_000)[3:5]
    ['intrinsic+deadzone@dim=25000,bits=2,down=own4', 'intrinsic+deadzone@dim=6250,bits=2,down=own4']
    """
    sparse = "topk@fraction=0.01,down=own4"
    return ["dense", sparse, f"fedpara+{sparse}", *inside(numbers, 2, 4)]


def inside(numbers: int, bits: int, down: int) -> list[str]:
    """Subspaces of a model of so many numbers, the largest first; `bits` up, `down` bits down."""
    dims = [numbers // share for share in SHARES if numbers // share >= min(LEAST, numbers // SHARES[0])]
    return [f"intrinsic+deadzone@dim={dim},bits={bits},down=own{down}" for dim in dims]


def beside(one: Candidate, numbers: int, rates: bool) -> list[Candidate]:
    """Candidates that differ a little.

    A higher or lower learning rate, where `rates` are to be chosen; a rate that is constant, or one that falls; and in
    a subspace of a model of so many numbers more or fewer numbers, or other bits up and down, at either kind of rate:
    coarse steps may want another kind than fine ones.

    >>> at = Candidate("topk", 0.1)
    >>> [(other.lr, other.falls) for other in beside(at, 1000, rates=True)]
    [(0.3, True), (0.0333333, True), (0.1, False)]
    """
    lrs = (rounded(one.lr * FACTOR), rounded(one.lr / FACTOR)) if rates else ()
    found = [*(Candidate(one.method, lr, one.falls) for lr in lrs), Candidate(one.method, one.lr, not one.falls)]
    return found + [
        Candidate(method, one.lr, falls)
        for method in _methods(one.method, numbers)
        for falls in (one.falls, not one.falls)
    ]


def rounded(lr: float) -> float:
    """A rate in six digits, so that three times a third of it is the same one."""
    return float(f"{lr:.6g}")


def _methods(method: str, numbers: int) -> list[str]:
    """Subspaces that differ from this one in their dimension, or in their bits."""
    tables = {(bits, times): inside(numbers, bits, times * bits) for bits in (2, 1) for times in (2, 1)}
    for table in tables.values():
        if method in table:
            at = table.index(method)
            others = [other[at] for other in tables.values() if other is not table]
            return [*others, *table[max(0, at - 1) : at], *table[at + 1 : at + 2]]
    return []
