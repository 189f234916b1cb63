"""Elastic: how a run goes on when ranks die or join."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from fewbits.checks import check_number, check_whole
from fewbits.errors import LocalError
from fewbits.replicas.present import MOST_RANK

OWNER = "Elastic"
STORE = "a torch.distributed.TCPStore, or its address as 'host:port'"


@dataclass(frozen=True)
class Elastic:
    """Ranks that come and go, in place of a process group: `OuterStep(model, group=Elastic(min_ranks=2))`.

    The run goes on when ranks die, and others join it.

    The ranks meet in a TCPStore, and need no process group. It must outlive them: torchrun's agent has one, which
    survives its workers; without torchrun host one in a process of its own. When the store is lost, all ranks end.

    Args:
        rank: this rank's number, 0 or more, that no other living rank has; None: torchrun's RANK.
        ranks: how many ranks begin the run together; None: torchrun's WORLD_SIZE. Later ones join it.
        min_ranks: fewest ranks that take an outer step; fewer wait for others, for at most `timeout` seconds.
        store: a torch.distributed.TCPStore, or its address as "host:port"; None: MASTER_ADDR and MASTER_PORT.
        run: a name, where several runs share a store.
        heartbeat_timeout: seconds without a heartbeat after which a rank counts as lost, 0.1 or more. A process that
            ends is noticed at once; this is for machines that vanish.

    Raises:
        LocalError: a number is out of range.

    Example:
        >>> Elastic(rank=2, ranks=4, min_ranks=2, store="10.0.0.1:29400")
        Elastic(rank=2, ranks=4, min_ranks=2, store='10.0.0.1:29400', run='', heartbeat_timeout=30.0)

    References:
        The ranks of now as a quorum, and snapshots from a living rank: torchft (2025). Ranks that come and go: PyTorch
        Elastic; Ryabinin et al., Moshpit SGD, NeurIPS 2021.
    """

    rank: int | None = None
    ranks: int | None = None
    min_ranks: int = 1
    store: Any = None
    run: str = ""
    heartbeat_timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_whole(f"{OWNER}: rank", self.rank, 0, MOST_RANK)
        if self.ranks is not None:
            check_whole(f"{OWNER}: ranks", self.ranks, 1, 2**16)
        check_whole(f"{OWNER}: min_ranks", self.min_ranks, 1, 2**16)
        check_number(f"{OWNER}: heartbeat_timeout", self.heartbeat_timeout, "[0.1, 1e9]")
        if not isinstance(self.run, str) or not self.run.isprintable():
            raise LocalError(f"{OWNER}: run must be a text of printable characters; got {self.run!r}")
        if isinstance(self.store, str):
            address_of(self.store)
        elif self.store is not None and not isinstance(self.store, getattr(dist, "TCPStore", ())):
            raise LocalError(f"{OWNER}: store must be {STORE}; got {self.store!r}")

    def filled(self, environment: Mapping[str, str] = os.environ) -> Elastic:
        """With torchrun's values for what was not given.

        Raises:
            LocalError: a value is missing, or is no number; or more ranks are needed than begin.
        """
        rank = number("rank", "RANK", environment) if self.rank is None else self.rank
        ranks = number("ranks", "WORLD_SIZE", environment) if self.ranks is None else self.ranks
        store = self.store
        if store is None:
            host = text("store", "MASTER_ADDR", environment)
            store = f"{host}:{number('store', 'MASTER_PORT', environment)}"
        if self.min_ranks > ranks:
            raise LocalError(f"{OWNER}: min_ranks={self.min_ranks}, but the run begins with ranks={ranks}")
        return Elastic(rank, ranks, self.min_ranks, store, self.run, self.heartbeat_timeout)


def address_of(store: str) -> tuple[str, int]:
    """Host and port.

    >>> address_of("10.0.0.1:29400")
    ('10.0.0.1', 29400)
    """
    host, _, port = store.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise LocalError(f"{OWNER}: store must be {STORE}; got {store!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def text(option: str, name: str, environment: Mapping[str, str]) -> str:
    """A variable of torchrun's."""
    if not environment.get(name):
        raise LocalError(f"{OWNER}: give {option}, or start with torchrun, which sets {name}")
    return environment[name]


def number(option: str, name: str, environment: Mapping[str, str]) -> int:
    """A variable of torchrun's that is a number."""
    found = text(option, name, environment)
    if not found.isdecimal():
        raise LocalError(f"{OWNER}: {name} must be a whole number; got {found!r}")
    return int(found)
