"""Schedule: the shape of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewbits.checks import check_count, check_whole
from fewbits.errors import LocalError
from fewbits.sizes import MOST

NO_CAP = 10**9  # rounds of a run that its budget alone ends


@dataclass(frozen=True)
class Schedule:
    """How long a run is, how many clients each round has, and how often it is evaluated and saved.

    Args:
        rounds: length of the run.
        per_round: clients sampled per round; None: all.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        checkpoint_every: rounds between checkpoints; only with a folder.
        processes: worker processes; results do not depend on it.
        device: where clients train, such as "cuda". All else happens on the CPU.
        budget: most bytes of the run, both directions together; the run ends close to them. None: no limit.
        give_up: end a run that diverges, so that the rest of its budget may be spent otherwise.

    Raises:
        LocalError: a number is out of range, or there is no such device here.

    Example:
        >>> Schedule(rounds=100, per_round=10, evaluate_every=5).processes
        2
    """

    rounds: int  # length of the run
    per_round: int | None = None  # clients sampled per round; None: all
    evaluate_every: int = 1  # rounds; the last is always evaluated
    checkpoint_every: int = 10  # rounds; only with a folder
    processes: int = 2  # results do not depend on it
    device: str = "cpu"  # where clients train; all else happens on the CPU
    budget: int | None = None  # most bytes of the run, both directions; None: no limit
    give_up: bool = False  # end a run that diverges

    def __post_init__(self) -> None:
        for name in ("rounds", "evaluate_every", "checkpoint_every", "processes"):
            check_count(name, getattr(self, name))
        if self.budget is not None:
            check_whole("budget", self.budget, 1, MOST, numpy=True, hint=" of bytes")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            raise LocalError(f"device must be cpu, cuda, cuda:1, mps or so; got {self.device!r}") from None
        _check_there(self.device, device)
        if device.type != "cpu" and self.processes != 1:
            found = f"{self.device} takes processes=1, as it does not survive a fork; got {self.processes}"
            raise LocalError(f"device {found}")
        if self.per_round is not None:
            check_count("per_round", self.per_round)

    def check_no_budget(self) -> None:
        """LocalError when there is a budget: a run without a server has none."""
        if self.budget is not None:
            raise LocalError(
                f"a run without a server takes no budget, as no node knows what all have spent; set its length by "
                f"rounds; got {self.budget:,} bytes"
            )


def _check_there(given: str, device: torch.device) -> None:
    """LocalError unless torch can compute on the device here."""
    names = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS (Apple GPU)", "xpu": "XPU (Intel GPU)"}
    if device.type not in names:
        raise LocalError(f"device must be cpu, cuda, cuda:1, mps or so; got {given!r}")
    backend = getattr(torch, device.type, None) if device.type != "mps" else torch.backends.mps
    if device.type != "cpu" and (backend is None or not backend.is_available()):
        raise LocalError(f"device is {given}, but torch sees no {names[device.type]} device here; take cpu")
    count = 1 if device.type in ("cpu", "mps") else getattr(torch, device.type).device_count()
    if device.index is not None and device.index >= count:
        raise LocalError(f"device is {given}, but torch sees {count} such here, counted from 0")
