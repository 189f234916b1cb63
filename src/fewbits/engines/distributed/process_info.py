"""ProcessInfo: this process's rank, the number of processes, and the address of their rendezvous store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.errors import LocalError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessInfo:
    """The values that torchrun gives each process through its environment."""

    rank: int  # number of this process and of its node
    size: int  # number of processes
    host: str  # address of the rendezvous store
    port: int
    agent: bool = False  # True: torchrun's own process runs the store; False: rank 0 does
    attempt: int = 0  # how often torchrun has restarted all processes
    local_rank: int = 0  # number of this process on its machine, which selects a GPU

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or not 0 < self.port < 2**16:
            raise LocalError(
                f"ProcessInfo: need 0 <= rank < size and a port below 65536; got rank {self.rank} of {self.size}, "
                f"port {self.port}"
            )

    @property
    def runs_store(self) -> bool:
        """Whether this process runs the store."""
        return self.rank == 0 and not self.agent

    @property
    def address(self) -> str:
        """The store's address."""
        return f"{self.host}:{self.port}"

    @property
    def store_owner(self) -> str:
        """The process that runs the store, as the subject of a sentence."""
        return f"torchrun (its store at {self.address})" if self.agent else f"node 0 (with the store at {self.address})"

    @staticmethod
    def given(environment: Mapping[str, str] = os.environ) -> bool:
        """Whether torchrun started this process."""
        return "RANK" in environment and "WORLD_SIZE" in environment

    @staticmethod
    def of(environment: Mapping[str, str] = os.environ) -> ProcessInfo:
        """Read torchrun's variables. LocalError names variables that are missing or are no numbers.

        >>> ProcessInfo.of({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
        ProcessInfo(rank=1, size=4, host='127.0.0.1', port=29500, agent=False, attempt=0, local_rank=0)
        """
        missing = [name for name in NEEDED if not environment.get(name)]
        if missing:
            raise LocalError(f"start the nodes with torchrun, which sets {', '.join(NEEDED)}; missing: {missing}")

        def number(name: str, default: str = "") -> int:
            text = environment.get(name) or default
            if not text.isdecimal():
                raise LocalError(f"{name} must be a whole number; got {text!r}")
            return int(text)

        return ProcessInfo(
            number("RANK"),
            number("WORLD_SIZE"),
            environment["MASTER_ADDR"],
            number("MASTER_PORT"),
            environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            number("TORCHELASTIC_RESTART_COUNT", "0"),
            number("LOCAL_RANK", "0"),
        )
