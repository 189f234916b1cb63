"""What of a model travels at all: factors instead of weights, or only some of its layers; over any other method.

FedPara, pFedPara: Hyeon-Woo, Ye-Bin, Oh, ICLR 2022 (arXiv 2108.06098). FedPer: Arivazhagan et al., 2019 (arXiv
1912.00818).
"""

from __future__ import annotations

from fewbits.factor import Factorisation
from fewbits.learn.method import LAST, Method
from fewbits.methods.dense import wrap_method


def fedpara(
    over: Method | None = None,
    gamma: float | str = 0.1,
    skip: str = "",
    only: str = "",
    init: str = "matched",
    tanh: bool = False,
    budget: int = 0,
) -> Method:
    """FedPara: W = (X1 Y1^T) o (X2 Y2^T); the factors travel by the method `over` (default: dense).

    Args:
        over: the method of what travels; None: dense.
        gamma: where the ranks lie between the least useful one, 0, and full size, 1; "auto" fits `budget`.
        skip: shell patterns on names of layers that stay as they are, separated by commas.
        only: patterns on names of the layers that are factored, and no others.
        init: "matched": the dense layer's variance; see `fb.fedpara`.
        tanh: put tanh between the two halves, an option of the paper.
        budget: for gamma="auto": bytes of float32 that what travels may take.

    Example:
        >>> fedpara(gamma=0.3).name
        'fedpara'

    Source: Hyeon-Woo et al., FedPara, ICLR 2022.
    """
    how = Factorisation("fedpara", gamma, _patterns(skip), _patterns(only), init, tanh, budget_bytes=budget or None)
    return wrap_method("fedpara", over, factor=how)


def lowrank(
    over: Method | None = None, gamma: float | str = 0.1, skip: str = "", only: str = "", budget: int = 0
) -> Method:
    """The baseline W = X Y^T (Tucker-2 for kernels) with as many numbers as FedPara at the same gamma.

    Args:
        over: the method of what travels; None: dense.
        gamma: where the ranks lie between the least useful one, 0, and full size, 1; "auto" fits `budget`.
        skip: shell patterns on names of layers that stay as they are, separated by commas.
        only: patterns on names of the layers that are factored, and no others.
        budget: for gamma="auto": bytes of float32 that what travels may take.

    Example:
        >>> lowrank(gamma=0.3).factor.gamma
        0.3

    Source: a baseline of Hyeon-Woo et al., FedPara, ICLR 2022.
    """
    how = Factorisation("lowrank", gamma, _patterns(skip), _patterns(only), budget_bytes=budget or None)
    return wrap_method("lowrank", over, factor=how)


def pfedpara(
    over: Method | None = None,
    gamma: float | str = 0.5,
    skip: str = "",
    only: str = "",
    tanh: bool = False,
    budget: int = 0,
) -> Method:
    """pFedPara: W = W1 o (W2 + 1); W1's factors travel, W2's factors stay with their client.

    Args:
        over: the method of what travels; None: dense.
        gamma: where the ranks lie between the least useful one, 0, and full size, 1; "auto" fits `budget`.
        skip: shell patterns on names of layers that stay as they are, separated by commas.
        only: patterns on names of the layers that are factored, and no others.
        tanh: put tanh between the two halves, an option of the paper.
        budget: for gamma="auto": bytes of float32 that what travels may take.

    Example:
        >>> pfedpara().personal
        True

    Source: Hyeon-Woo et al., FedPara, ICLR 2022.
    """
    how = Factorisation("pfedpara", gamma, _patterns(skip), _patterns(only), tanh=tanh, budget_bytes=budget or None)
    return wrap_method("pfedpara", over, factor=how)


def fedper(over: Method | None = None, private: str = LAST) -> Method:
    """FedPer: personal layers stay with their client, by default the last one.

    Args:
        over: the method of what travels; None: dense.
        private: shell patterns on names of parameters, separated by commas; "@last": the last module's.

    Example:
        >>> fedper(private="head.*").private
        ('head.*',)

    Source: Arivazhagan et al., Personalization Layers, 2019.
    """
    return wrap_method("fedper", over, private=_patterns(private))


def local() -> Method:
    """No communication: every client trains alone, and a frame is its header.

    Example:
        >>> local().private
        ('*',)

    Source: ours, the baseline without communication.
    """
    return wrap_method("local", None, private=("*",))


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
