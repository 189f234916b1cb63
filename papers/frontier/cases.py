"""The rows of the tables: tasks, methods, and the rates that the tuning chose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A task, and the checks that dense's curve gives."""

    name: str
    data: str
    split: str
    batch_size: int
    checks: tuple[tuple[int, float], ...]  # (rounds of dense, points or percent worse than dense's score then)
    clients: int = 100
    per_round: int = 10
    every: int = 2  # rounds between evaluations
    model: str = "cnn"  # the LBGM paper's: 431,080 numbers on MNIST, 657,080 on CIFAR-10
    score: str = "accuracy"  # or "loss", of which the allowance is a percentage
    folder: str = ""  # below --data-dir; "": the data set's name


@dataclass(frozen=True)
class Case:
    """One row: a method on a task."""

    setting: str
    name: str
    method: str  # as on the command line
    lr: float
    rounds: int
    falling: int | None = None  # rounds over which the rate falls
    end_factor: float = 0.1  # to this part


SETTINGS = {
    one.name: one
    for one in (
        Setting("mnist", "mnist", "classes:3", 20, ((40, 1.0), (100, 0.5))),
        Setting("cifar10", "cifar10", "dirichlet:0.5", 20, ((50, 1.0), (150, 1.0))),
        Setting(
            "shakespeare",
            "shakespeare",
            "natural",
            4,
            ((40, 1.0), (60, 1.0)),
            256,
            every=5,
            model="charlstm",
            score="loss",
            folder="tinyshakespeare",
        ),
    )
}


def inside(dim: int, up: str, down: str, **options: object) -> str:
    """The text of a method inside a subspace; `up` without its options."""
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"intrinsic+{up}@dim={dim},down={down}{more}"


def cases() -> list[Case]:
    """All rows, dense first."""
    return [
        Case("mnist", "dense", "dense", 0.1, 100),
        Case("mnist", "d 4096, 2 bit", inside(4096, "deadzone", "own2", bits=2), 0.08, 100),
        Case("mnist", "d 4096, ternary", inside(4096, "deadzone", "own1", bits=1), 0.08, 60),
        Case("mnist", "d 4096, ternary, falling", inside(4096, "deadzone", "own1", bits=1), 0.16, 40, falling=40),
        Case("mnist", "d 4096, 2 bit, falling", inside(4096, "deadzone", "own2", bits=2), 0.16, 100, falling=100),
        Case("cifar10", "dense", "dense", 0.05, 150),
        Case("cifar10", "d 8192, 2 bit, falling", inside(8192, "deadzone", "own2", bits=2), 0.1, 50, falling=50),
        Case("cifar10", "d 8192, 2 bit up, 4 down, falling", inside(8192, "deadzone", "own4", bits=2), 0.1, 50, 50),
        Case(
            "cifar10",
            "d 45056, 2 bit up, 4 down, falling to .01",
            inside(45056, "deadzone", "own4", bits=2),
            0.12,
            150,
            150,
            0.01,
        ),
        Case("shakespeare", "dense", "dense", 4.0, 60),
        Case(
            "shakespeare",
            "d 49152, 2 bit up, 4 down, falling",
            inside(49152, "deadzone", "own4", bits=2),
            4.0,
            110,
            110,
        ),
    ]
