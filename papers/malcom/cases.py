"""The rows of the tables of README.md: methods, graphs, data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import fewbits as fb
from fewbits.coders.base import Coder

SEEDS = (0, 1, 2)
FIXED, GOLOMB, RANS = fb.Fixed(), fb.Golomb(), fb.Rans()
FOUR = fb.Quantize(bits=4)  # max-scaled, unbiased: no side information but one scale
EIGHT = fb.Quantize(bits=8, norm="l2", mode="contractive")  # the paper's norm: most of its levels are zero


@dataclass(frozen=True)
class Setting:
    """What all methods have in common on one data set; chosen with DSGD alone."""

    examples: int  # the first ones of the training set
    side: int  # of the images, in pixels
    rate: float
    rounds: int
    every: int  # rounds between evaluations


SETTINGS = {"mnist": Setting(4000, 28, 0.1, 160, 10), "cifar10": Setting(10_000, 8, 0.1, 400, 20)}


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    name: str
    method: fb.learn.GossipMethod
    graph: str = "ring 10"
    data: str = "mnist"
    inactive: float = 0.0  # share of nodes, in a round


def coded(quantiser: fb.Quantize | fb.Sign, coder: Coder) -> fb.codecs.Flat:
    return fb.flat(fb.chain(quantiser, coder))


def groups() -> dict[str, list[Case]]:
    """All rows, group by group, those that are worth most first."""
    ring, gammas = parts_of_the_saving(), steps((0.6, "auto"))
    most = [case for case in ring if not case.name.endswith(("rans", "0.0001", "0.001"))]
    return {
        "ring": ring,
        "torus": [replace(case, graph="torus 16") for case in most],
        "asleep": [replace(case, inactive=0.2) for case in [*most, *steps(("auto",))[1:]]],
        "gammas": gammas,
        "cifar10": [replace(case, data="cifar10") for case in most],
        "small gammas": steps((0.3,)),
        "quantisers": quantisers(),
        "torus gammas": [replace(case, graph="torus 16") for case in [*gammas, *steps((0.3,))]],
        "mixed": [malcom(mu, "mixed") for mu in (0.0, 1e-4, 1e-3)],
    }


def parts_of_the_saving() -> list[Case]:
    """Coder, quantiser, l1 term, one after the other."""
    return [
        Case("dsgd, float32", fb.learn.DSGD()),
        Case("choco, 4 bit, fixed width", fb.learn.Choco(coded(FOUR, FIXED), gamma=0.9)),
        Case("choco, 4 bit, golomb", fb.learn.Choco(coded(FOUR, GOLOMB), gamma=0.9)),
        Case("choco, 8 bit l2, fixed width", fb.learn.Choco(coded(EIGHT, FIXED), gamma=0.9)),
        Case("choco, 8 bit l2, golomb", fb.learn.Choco(coded(EIGHT, GOLOMB), gamma=0.9)),
        Case("choco, 8 bit l2, rans", fb.learn.Choco(coded(EIGHT, RANS), gamma=0.9)),
        *(malcom(mu) for mu in (1e-5, 1e-4, 1e-3)),
    ]


def malcom(mu: float, position: str = "half") -> Case:
    name = f"malcom, 8 bit l2, mu {mu:g}" + (", sends after consensus" if position == "mixed" else "")
    return Case(name, fb.learn.Malcom(coded(EIGHT, GOLOMB), gamma=0.9, regulariser=fb.learn.L1(mu), position=position))


def steps(gammas: tuple[float | str, ...]) -> list[Case]:
    """Other consensus steps than 0.9, for both quantisers."""
    return [
        Case(f"choco, {name}, golomb, gamma {gamma}", fb.learn.Choco(coded(quantiser, GOLOMB), gamma=gamma))
        for name, quantiser in (("4 bit", FOUR), ("8 bit l2", EIGHT))
        for gamma in gammas
    ]


def quantisers() -> list[Case]:
    """What does best at a fixed width, and what does best before the coder? Every one with gamma="auto"."""
    three, four = (fb.Quantize(bits=bits, bucket=512) for bits in (3, 4))
    nine, ten = (fb.Quantize(bits=bits, norm="l2") for bits in (9, 10))  # unbiased: their error is small
    tried: dict[str, tuple[fb.Quantize | fb.Sign, Coder]] = {
        "sign, fixed width": (fb.Sign(), FIXED),
        "3 bit by 512, fixed width": (three, FIXED),
        "4 bit by 512, fixed width": (four, FIXED),
        "3 bit by 512, golomb": (three, GOLOMB),
        "9 bit l2, golomb": (nine, GOLOMB),
        "10 bit l2, golomb": (ten, GOLOMB),
    }
    return [
        Case(f"choco, {name}, gamma auto", fb.learn.Choco(coded(*pair), gamma="auto")) for name, pair in tried.items()
    ]


def file_name(case: Case) -> str:
    return f"{case.data} {case.graph} asleep {case.inactive:g} {case.name}".replace(" ", "_").replace(",", "")
