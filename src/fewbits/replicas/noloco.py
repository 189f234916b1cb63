"""NoLoCo: outer steps with one random partner, and a momentum that draws both to their mean.

Kolehmainen et al., NoLoCo: No-all-reduce Low Communication Training Method for Large Models, arXiv 2506.10911.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature

from fewbits.codecs import Quantize, Raw, chain, flat
from fewbits.coders import Rans
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods import catalogue
from fewbits.methods.catalogue import parse_all
from fewbits.methods.text import read
from fewbits.replicas.partners import RandomPartner

NAME = "noloco"
OPTIMIZER = ServerSGD(lr=0.7, momentum=0.5)


def noloco(bits: int = 4, lr: float = 0.7, momentum: float = 0.5, pull: float = 1.0) -> tuple[RandomPartner, ServerSGD]:
    """NoLoCo: each rank and one random partner exchange differences of their models; and the outer step.

    Args:
        bits: of each number of a difference, 3 to 15, dithered and entropy-coded; 32: float32, as in the paper.
        lr: of the outer step, beta in the paper.
        momentum: of the outer step, alpha in the paper, in [0, 1).
        pull: gamma / beta in the paper.

    Example:
        >>> noloco(bits=32)[0]
        RandomPartner(method=flat(chain(Raw())), pull=1.0)

    Source: Kolehmainen et al., NoLoCo, 2025.
    """
    codec = flat(Raw() if bits == 32 else chain(Quantize(bits=bits), Rans()))
    return RandomPartner(codec, pull), ServerSGD(lr=lr, momentum=momentum)


def preset(method: object) -> tuple[RandomPartner, ServerSGD] | None:
    """The preset that a text such as "noloco@bits=8" names; None for any other method.

    Raises:
        LocalError: it has no such option, or a value is wrong.
    """
    if not isinstance(method, str) or method.partition("@")[0].strip() != NAME:
        return None
    return noloco(**parse_all(NAME, read(method).settings, options(NAME)))  # pyright: ignore[reportArgumentType]


RANK_METHODS: Mapping[str, Callable[..., object]] = {NAME: noloco}


def options(name: str) -> dict[str, object]:
    """The options of a method that ranks play, with their defaults; also of those that have a server elsewhere.

    >>> options("noloco")["bits"]
    4
    """
    if name not in RANK_METHODS:
        return catalogue.options(name)
    return {p.name: p.default for p in signature(RANK_METHODS[name]).parameters.values()}
