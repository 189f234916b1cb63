"""Methods without a server, by their names on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from fewbits.checks import check_one_of
from fewbits.choices import unknown
from fewbits.codecs import Chain, ErrorFeedback, Quantize, Raw, TopK, chain, flat
from fewbits.coders import Elias, Fixed, Golomb, Rans, Zstd
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.learn.gossip import DSGD, L1, Choco, DeepSqueeze, GossipMethod, GroupL1, Malcom
from fewbits.methods.catalogue import is_method, parse_all
from fewbits.methods.homes import played_elsewhere
from fewbits.methods.text import read

CODERS: Mapping[str, Coder] = {
    "golomb": Golomb(),
    "rans": Rans(),
    "elias": Elias(),
    "zstd": Zstd(),
    "fixed": Fixed(),
}


def dsgd(gamma: float = 1.0, momentum: float = 0.0) -> DSGD:
    """D-PSGD: nodes send whole models in float32 and average them with their neighbours'.

    Args:
        gamma: how far a node moves to its neighbours' mean, in (0, 1].
        momentum: of a node's step, in [0, 1).

    Source: Lian et al., Decentralized Parallel SGD, NeurIPS 2017.
    """
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
    """CHOCO: nodes send compressed differences to public copies of their models.

    Args:
        bits: of a level; 32 sends float32.
        coder: golomb, rans, elias, zstd, or fixed (the plain width of the levels, as papers count).
        norm: what a level is relative to: the largest entry, "linf", or the 2-norm, "l2".
        mode: "unbiased" levels, or scaled ones that are "contractive".
        fraction: share of the entries that are sent, the largest ones; 1: all.
        gamma: how far a node moves to its neighbours' mean, in (0, 1]; or auto: from the graph and the codec.
        momentum: of a node's step, in [0, 1).
        position: what a frame describes: the model before the consensus step, "half", or after it, "mixed".
        start: the public copies begin at the "common" initial model, or at "zero".

    Source: Koloskova et al., CHOCO-SGD, ICML 2019.
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
    """Malcom: CHOCO with a proximal step for mu |x|_1 and the vector source coder.

    Args:
        mu: weight of |x|_1; larger: more zeros, fewer bytes.
        bits: of a level; 32 sends float32.
        coder: golomb, rans, elias, zstd, or fixed (the plain width of the levels, as papers count).
        norm: what a level is relative to: the largest entry, "linf", or the 2-norm, "l2".
        mode: "unbiased" levels, or scaled ones that are "contractive".
        groups: whether the weights of each output are penalised together.
        gamma: how far a node moves to its neighbours' mean, in (0, 1]; or auto: from the graph and the codec.
        momentum: of a node's step, in [0, 1).
        position: what a frame describes: the model before the consensus step, "half", or after it, "mixed".
        start: the public copies begin at the "common" initial model, or at "zero".

    Source: Campbell et al., Malcom-PSGD, 2023.
    """
    regulariser = GroupL1(mu) if groups else L1(mu)
    return Malcom(flat(_stack(bits, coder, norm, mode, 1.0)), gamma, momentum, position, start, regulariser)


def deepsqueeze(bits: int = 8, coder: str = "rans", gamma: float | str = 0.3, momentum: float = 0.0) -> DeepSqueeze:
    """DeepSqueeze: nodes send whole models, quantised, with error feedback.

    Args:
        bits: of a level; 32 sends float32.
        coder: golomb, rans, elias, zstd, or fixed (the plain width of the levels, as papers count).
        gamma: how far a node moves to its neighbours' mean, in (0, 1]; or auto: from the graph and the codec.
        momentum: of a node's step, in [0, 1).

    Source: Tang et al., DeepSqueeze, 2019.
    """
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
    """A method's options with their defaults; for an unknown name, LocalError lists the methods."""
    if name not in GOSSIP:
        if sentence := played_elsewhere(name):
            raise LocalError(sentence)
        if is_method(name):
            raise LocalError(
                f"method {name!r} needs a server; play it with fb.federate or fewbits train. "
                f"Without a server there are {', '.join(GOSSIP)}"
            )
        raise unknown("method without a server", name, GOSSIP)
    return {p.name: p.default for p in inspect.signature(GOSSIP[name]).parameters.values()}


def build(text: str, settings: Mapping[str, str] | None = None) -> GossipMethod:
    """The method that a text describes, such as `malcom@mu=1e-4`, with more options as text in `settings`."""
    found = read(text)
    # gamma is a number even when its default is "auto".
    known = {key: 0.5 if key == "gamma" else default for key, default in options(found.name).items()}
    return GOSSIP[found.name](**parse_all(found.name, {**found.settings, **(settings or {})}, known, GOSSIP))


def gossip_method(method: GossipMethod | str) -> GossipMethod:
    """A method from text, or the method itself.

    Args:
        method: a `GossipMethod`, or text: NAME or NAME@option=value,option=value.

    Raises:
        LocalError: the name or an option is unknown, or a value is wrong.

    >>> gossip_method("malcom@mu=1e-4,bits=3").regulariser
    L1(mu=0.0001)
    >>> gossip_method("choco") == gossip_method(choco())
    True
    """
    if isinstance(method, str):
        return build(method)
    if not isinstance(method, GossipMethod):
        raise LocalError(f"a method without a server is a text such as 'malcom', or a GossipMethod; got {method!r}")
    return method
