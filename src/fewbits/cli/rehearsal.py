"""Rehearsals: candidates for a budget, each played for a few rounds of the run itself, and the choice among them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewbits.checks import check_count
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import InitialModels, prepare
from fewbits.data import Data
from fewbits.engines.simulation import Federation
from fewbits.errors import LocalError
from fewbits.methods.text import MethodText, read
from fewbits.report.record import total
from fewbits.report.text import megabytes
from fewbits.sizes import short_size

ROUNDS = 15  # of a rehearsal, by default
SHARES = (25, 100, 200)  # a subspace has 1/25, 1/100 or 1/200 as many numbers as the model
RATES = ((4, "own4"), (2, "own2"), (1, "own1"))  # bits up and the downlink, in a subspace
LEAST = 16  # numbers of a subspace
TASK = ("data", "data_dir", "model", "clients", "per_round", "split")
TRAINING = ("lr", "momentum", "weight_decay", "batch_size", "epochs", "steps", "clip", "seed", "device")


@dataclass(frozen=True)
class Rehearsed:
    """A candidate after its rehearsal."""

    method: MethodText
    accuracies: tuple[float, ...]  # after each round
    first: int  # bytes of the first round, both directions
    bytes: int  # of all rounds

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.accuracies[-1]

    @property
    def cost(self) -> float:
        """Mean bytes of a round after the first, in which clients get a seed instead of a model."""
        later = len(self.accuracies) - 1
        return (self.bytes - self.first) / later if later else self.bytes

    def rounds(self, budget: int, most: int | None = None) -> int:
        """How many rounds so many bytes buy, at most `most`."""
        found = int(budget // self.cost)
        return found if most is None else min(found, most)

    def accuracy_for(self, budget: int, most: int | None = None) -> float | None:
        """After the rounds that so many bytes buy, as far as it was rehearsed; None: they buy no round."""
        rounds = min(self.rounds(budget, most), len(self.accuracies))
        return self.accuracies[rounds - 1] if rounds else None


def candidates(numbers: int) -> list[MethodText]:
    """What is tried for a model of so many numbers, fine and coarse.

    >>> [str(method) for method in candidates(100_000)][2:4]
    ['intrinsic+deadzone@dim=4000,bits=4,down=own4', 'intrinsic+deadzone@dim=4000,bits=2,down=own2']
    """
    dims = dict.fromkeys(max(LEAST, numbers // share) for share in SHARES)
    inside = [f"intrinsic+deadzone@dim={d},bits={bits},down={down}" for d in dims for bits, down in RATES]
    sparse = "topk@fraction=0.01,down=own4"
    return [read(text) for text in ("dense", sparse, *inside, f"fedpara+{sparse}")]


def rehearse(
    config: RunConfig, found: Data, rounds: int, say: Callable[[str], None]
) -> tuple[list[Rehearsed], list[str]]:
    """Play every candidate for so many rounds of the run; and a sentence for each that does not fit.

    Args:
        config: the run's; its method, length and intervals are not used.
        found: its data set.
        rounds: of each rehearsal.
        say: told what is rehearsed next.
    """
    check_count("rehearsal", rounds)
    initial = InitialModels(found)
    model = initial.of(config)
    tried = candidates(sum(p.numel() for p in model.parameters() if p.requires_grad))
    done: list[Rehearsed] = []
    refused: list[str] = []
    for i, method in enumerate(tried, 1):
        say(f"rehearsal {i} of {len(tried)}: {method}, {rounds} rounds")
        one = replace(with_method(config, method), rounds=rounds, budget=None, evaluate_every=1)
        try:
            run = prepare(one, found, initial=model)
            reports = Federation(run.task, run.method, one.schedule(), run.key).run().reports
        except LocalError as error:
            refused.append(f"{method}: {error}")
            continue
        accuracies = tuple(report.accuracy for report in reports if report.accuracy is not None)
        if len(accuracies) < rounds:
            refused.append(f"{method}: it has no accuracy in every round")
        else:
            done.append(Rehearsed(method, accuracies, total(reports[0]), total(reports[-1])))
    if not done:
        raise LocalError("no candidate could be rehearsed. " + "; ".join(refused))
    return done, refused


def with_method(config: RunConfig, method: MethodText) -> RunConfig:
    """The same run by this method."""
    return replace(config, method=method.name, settings=dict(method.settings))


def choose(done: Sequence[Rehearsed], budget: int, most: int | None = None) -> Rehearsed:
    """The candidate with the best accuracy that these bytes buy; ties: the one with fewer bytes a round."""
    able = [one for one in done if one.accuracy_for(budget, most) is not None]
    if not able:
        cheapest = min(one.cost for one in done)
        raise LocalError(
            f"a budget of {short_size(budget)} buys no round of any candidate; the cheapest one costs "
            f"{short_size(round(cheapest))} a round"
        )
    return max(able, key=lambda one: (one.accuracy_for(budget, most) or 0.0, -one.cost))


def frontier(done: Sequence[Rehearsed], budget: int | None = None) -> list[Rehearsed]:
    """Those of which no other one is as cheap and better, or cheaper and as good; by their cost.

    With a budget: of those whose rounds it can buy.
    """
    found: list[Rehearsed] = []
    able = [one for one in done if budget is None or one.rounds(budget)]
    for one in sorted(able, key=lambda one: (one.cost, -one.accuracy)):
        if not found or one.accuracy > found[-1].accuracy:
            found.append(one)
    return found


def reason(chosen: Rehearsed, done: Sequence[Rehearsed], config: RunConfig) -> str:
    """What was chosen for a run, and why, in one line."""
    assert config.budget_bytes is not None
    rounds, played = chosen.rounds(config.budget_bytes, config.rounds), len(chosen.accuracies)
    accuracy = chosen.accuracy_for(config.budget_bytes, config.rounds)
    return (
        f"auto chose {chosen.method} of {len(done)} candidates for {config.budget}: {accuracy:.2%} after "
        f"{min(rounds, played)} rounds is the best, measured in a rehearsal of {played}; {megabytes(chosen.cost)} MB a "
        f"round, so about {rounds:,} rounds"
    )


def command(config: RunConfig, method: MethodText, length: str, out: str) -> str:
    """The full command of the run by this method, for a shell."""
    default, words = RunConfig(), ["fewbits", "train", "--method", str(method)]
    for name in (*TASK, *TRAINING):
        value: Any = getattr(config, name)
        if name in ("data", "model") or value != getattr(default, name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join([*words, *length.split(), "--out", out])
