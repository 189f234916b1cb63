"""Methods without a server, by the names they have on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from fewbits.checks import check_one_of
from fewbits.codecs import Chain, ErrorFeedback, Quantize, Raw, TopK, chain, flat
from fewbits.coders import Elias, Fixed, Golomb, Rans, Zstd
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.learn.gossip import DSGD, L1, Choco, DeepSqueeze, GossipMethod, GroupL1, Malcom
from fewbits.methods.catalogue import parse

CODERS: Mapping[str, Coder] = {
    "golomb": Golomb(),
    "rans": Rans(),
    "elias": Elias(),
    "zstd": Zstd(),
    "fixed": Fixed(),
}


def dsgd(gamma: float = 1.0, momentum: float = 0.0) -> DSGD:
    """Whole models in float32, averaged with the neighbours'."""
    return DSGD(flat(Raw()), gamma, momentum)


def choco(
    bits: int = 4,
    coder: str = "rans",
    norm: str = "linf",
    mode: str = "unbiased",
    fraction: float = 1.0,
    gamma: float | str = "auto",
    momentum: float = 0.0,
    position: str = "half",
    start: str = "common",
) -> Choco:
    """Compressed differences to public copies; `fraction` below 1: of the largest entries only, bits=32: in float32.

    `coder`: golomb, rans, elias, zstd, or fixed (the plain width of the levels, as papers count).
    """
    return Choco(flat(_stack(bits, coder, norm, mode, fraction)), gamma, momentum, position, start)


def malcom(
    mu: float = 1e-5,
    bits: int = 4,
    coder: str = "golomb",
    norm: str = "linf",
    mode: str = "unbiased",
    groups: bool = False,
    gamma: float | str = "auto",
    momentum: float = 0.0,
    position: str = "half",
    start: str = "common",
) -> Malcom:
    """CHOCO with a proximal step for mu |x|_1 (`groups`: for whole outputs) and the vector source coder."""
    regulariser = GroupL1(mu) if groups else L1(mu)
    return Malcom(flat(_stack(bits, coder, norm, mode, 1.0)), gamma, momentum, position, start, regulariser)


def deepsqueeze(bits: int = 8, coder: str = "rans", gamma: float | str = 0.3, momentum: float = 0.0) -> DeepSqueeze:
    """Whole models, quantised, with error feedback."""
    return DeepSqueeze(flat(ErrorFeedback(_stack(bits, coder, "linf", "unbiased", 1.0))), gamma, momentum)


GOSSIP: Mapping[str, Callable[..., GossipMethod]] = {
    "dsgd": dsgd,
    "choco": choco,
    "malcom": malcom,
    "deepsqueeze": deepsqueeze,
}


def _stack(bits: int, coder: str, norm: str, mode: str, fraction: float) -> Chain:
    check_one_of("coder", coder, tuple(CODERS))
    select = [TopK(fraction)] if fraction != 1 else []
    if bits == 32:
        return chain(*select or [Raw()])
    return chain(*select, Quantize(bits, norm=norm, mode=mode), CODERS[coder])


def options(name: str) -> dict[str, object]:
    """A method's options with their defaults; LocalError lists the methods when there is none of that name."""
    if name not in GOSSIP:
        raise LocalError(f"unknown method {name!r} without a server; choose one of {', '.join(GOSSIP)}")
    return {p.name: p.default for p in inspect.signature(GOSSIP[name]).parameters.values()}


def build(name: str, settings: Mapping[str, str] | None = None) -> GossipMethod:
    """The method of that name with options given as text, as `--set mu=1e-4` does."""
    known = options(name)
    for key in settings or {}:
        if key not in known:
            has = ", ".join(f"{k}={v}" for k, v in known.items())
            raise LocalError(f"method {name!r} has no option {key!r}; it has {has}")
    values = {key: _value(name, key, text, known[key]) for key, text in (settings or {}).items()}
    return GOSSIP[name](**values)


def _value(method: str, key: str, text: str, default: object) -> object:
    """gamma is a number, whatever its default is."""
    return parse(method, key, text, 0.5 if key == "gamma" else default)
