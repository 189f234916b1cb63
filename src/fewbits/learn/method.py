"""Method: what makes one way of federating differ from another."""

from __future__ import annotations

from dataclasses import dataclass, field

from fewbits.codecs import Lift
from fewbits.errors import LocalError
from fewbits.learn.optimizers import ServerOptimizer, ServerSGD

NORMALISE = ("sampled", "all")


@dataclass(frozen=True)
class Method:
    """A named composition of codecs, server optimiser and weighting."""

    name: str  # as on the command line
    up: Lift  # clients to server
    down: Lift  # server to clients
    optimizer: ServerOptimizer = field(default_factory=ServerSGD)
    normalise: str = "sampled"  # or "all": divide by everybody's examples (LBGM's official code)

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISE:
            raise LocalError(f"Method: normalise must be one of {', '.join(NORMALISE)}; got {self.normalise!r}")
