"""Methods that the figures suggest, by rules of thumb with stated thresholds."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.analysis.diagnosis.diagnose import Diagnosis

FEWEST_EPOCHS = 8  # with fewer, a rank means nothing
RANK = 0.5  # LBGM: components for 99% of the variance, per epoch
GAIN = 2.0  # subspaces: bytes saved in a ternary message
ENERGY = 0.4  # top-k: in the largest 5% of entries; of normal draws they hold 0.28
HEADER, TERNARY = 20, 1.4  # of a message: bytes whatever it holds, and bits a number
FASTER = 2.0  # times the rate of a central training: a rate that falls may begin higher
ROUNDS = 50  # of the run that is advised, as `fewbits train` has them by default

SUBSPACE, LBGM, TOPK, LEVELS = "intrinsic+deadzone", "lbgm+topk", "topk", "deadzone"


@dataclass(frozen=True)
class Advice:
    """One method, for or against."""

    method: str  # as `fewbits methods` has it
    fits: bool
    why: str  # the figure, and the rule


def advise(found: Diagnosis) -> tuple[Advice, ...]:
    """Advice on subspaces, LBGM and top-k, what saves most first; on ternary levels when none of them fits."""
    three = (_subspace(found), _lbgm(found), _topk(found))
    if any(advice.fits for advice in three):
        return three
    why = "nothing above fits; few bits for every number need nothing of the gradients"
    return (*three, Advice(LEVELS, True, why))


def message(numbers: int) -> float:
    """Bytes of a ternary message, about.

    >>> round(message(1024))
    199
    """
    return HEADER + TERNARY * numbers / 8


def dimension(found: Diagnosis) -> int | None:
    """Of the subspace that is advised: enough for 99% of the full accuracy, or the most tried where these reach 90%."""
    return found.d99 if found.d99 is not None or found.d90 is None else max(point.dim for point in found.points)


def _subspace(found: Diagnosis) -> Advice:
    dim = dimension(found)
    if dim is None:
        tried = max((point.dim for point in found.points), default=0)
        return Advice(SUBSPACE, False, f"90% of the full accuracy was not reached along {tried:,} directions or fewer")
    few, all = message(dim), message(found.parameters)
    reach = "reach 99%" if found.d99 is not None else "are the most tried and reach 90% but not 99%"
    why = (
        f"{dim:,} of {found.parameters:,} directions {reach} of the full accuracy: a ternary message has about "
        f"{few:,.0f} bytes instead of {all:,.0f}, {all / few:.3g} times fewer; the rule is {GAIN:g} or more"
    )
    return Advice(SUBSPACE, all / few >= GAIN, why)


def _lbgm(found: Diagnosis) -> Advice:
    n99, epochs = found.epoch.n99, found.epochs
    if epochs < FEWEST_EPOCHS:
        return Advice(LBGM, False, f"{epochs} epochs are too few to tell; the rule wants {FEWEST_EPOCHS}")
    why = (
        f"99% of the variance of {epochs} epochs' gradients lies in {_count(n99, 'component')} "
        f"({found.epoch.unit_n99} once all are scaled to length 1); the rule is at most {RANK * epochs:g}"
    )
    return Advice(LBGM, n99 <= RANK * epochs, why)


def _topk(found: Diagnosis) -> Advice:
    why = (
        f"the largest {found.fraction:.0%} of a gradient's entries hold {_percent(found.top_energy)} of its square; "
        f"the rule is {ENERGY:.0%} or more, and normal draws have 28%"
    )
    return Advice(TOPK, found.top_energy >= ENERGY, why)


def with_options(found: Diagnosis, method: str) -> str:
    """The method with its options, as text: differences of one bit travel down, too."""
    options = {SUBSPACE: f"dim={dimension(found)},bits=1,", LEVELS: "bits=1,"}.get(method, "")
    return f"{method}@{options}down=own1"


def first_choice(found: Diagnosis, advice: tuple[Advice, ...]) -> str:
    """The first method that fits, with its options."""
    return with_options(found, next(one.method for one in advice if one.fits))


def comparison(found: Diagnosis, advice: tuple[Advice, ...]) -> str:
    """Methods for `fewbits compare`: those that fit, and always dense and top-k as references."""
    names = dict.fromkeys([TOPK, *(one.method for one in advice if one.fits)])
    return ",".join(["dense", *(with_options(found, name) for name in names)])


def _percent(share: float) -> str:
    """In whole percents, or with the decimal that says on which side of the rule it is."""
    return f"{share:.1%}" if f"{share:.0%}" == f"{ENERGY:.0%}" else f"{share:.0%}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
