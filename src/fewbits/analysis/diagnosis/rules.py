"""Methods that the figures suggest, by rules of thumb with stated thresholds."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.analysis.diagnosis.diagnose import Diagnosis

FEWEST_EPOCHS = 8  # with fewer, a rank means nothing
RANK = 0.5  # LBGM: components for 99% of the variance, per epoch
GAIN = 4.0  # intrinsic: numbers saved; 8-bit levels save as much without one
ENERGY = 0.4  # top-k: in the largest 5% of entries; of normal draws they hold 0.28


@dataclass(frozen=True)
class Advice:
    """One method, for or against."""

    method: str  # as `fewbits methods` has it
    fits: bool
    why: str  # the figure, and the rule


def advise(found: Diagnosis) -> tuple[Advice, ...]:
    """Advice on LBGM, intrinsic and top-k; FedPAQ when none of them fits."""
    three = (_lbgm(found), _subspace(found), _topk(found))
    if any(advice.fits for advice in three):
        return three
    why = "nothing above fits; fewer bits per number need nothing of the gradients"
    return (*three, Advice("fedpaq", True, why))


def _lbgm(found: Diagnosis) -> Advice:
    n99, epochs = found.epoch.n99, found.epochs
    if epochs < FEWEST_EPOCHS:
        return Advice("lbgm", False, f"{epochs} epochs are too few to tell; the rule wants {FEWEST_EPOCHS}")
    why = (
        f"99% of the variance of {epochs} epochs' gradients lies in {_count(n99, 'component')} "
        f"({found.epoch.unit_n99} once all are scaled to length 1); the rule is at most {RANK * epochs:g}"
    )
    return Advice("lbgm", n99 <= RANK * epochs, why)


def _subspace(found: Diagnosis) -> Advice:
    if found.d99 is None:
        tried = max((point.dim for point in found.points), default=0)
        return Advice(
            "intrinsic", False, f"99% of the full accuracy was not reached along {tried:,} directions or fewer"
        )
    gain = found.parameters / found.d99
    why = (
        f"{found.d99:,} of {found.parameters:,} directions reach 99% of the full accuracy, {gain:.3g} times fewer; "
        f"the rule is {GAIN:g} or more"
    )
    return Advice("intrinsic", gain >= GAIN, why)


def _topk(found: Diagnosis) -> Advice:
    why = (
        f"the largest {found.fraction:.0%} of a gradient's entries hold {found.top_energy:.0%} of its square; "
        f"the rule is {ENERGY:.0%} or more, and normal draws have 28%"
    )
    return Advice("topk", found.top_energy >= ENERGY, why)


def comparison(found: Diagnosis, advice: tuple[Advice, ...]) -> str:
    """Options for `fewbits compare`: the methods that fit, and always dense and top-k as references.

    `intrinsic` gets the scale whose step is closer to that of the best learning rate.
    """
    fitting = [a.method for a in advice if a.fits]
    both = ["lbgm+topk"] if {"lbgm", "topk"} <= set(fitting) else []
    names = dict.fromkeys(["dense", "topk", *fitting, *both])
    return f"--methods {','.join(names)}" + (_settings(found) if "intrinsic" in names else "")


def _settings(found: Diagnosis) -> str:
    point = next(point for point in found.points if point.dim == found.d99)
    whole = found.parameters / point.dim  # the rate of the unbiased scale, the full one's being 1
    scale = "unbiased" if point.lr / found.lr >= whole**0.75 else "orthonormal"
    return f" --set intrinsic.dim={point.dim} --set intrinsic.scale={scale}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
