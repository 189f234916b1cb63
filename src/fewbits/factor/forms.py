"""fedpara, pfedpara, lowrank: the three factorisations as functions of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, TypeVar, Unpack

from torch import nn

from fewbits.factor.factorisation import Factorisation, Patterns
from fewbits.rng import Key

Model = TypeVar("Model", bound=nn.Module)
Gamma = float | str | Mapping[str, float]


class FactorOptions(TypedDict, total=False):
    """Keyword arguments that the three functions share; `Factorisation` documents and checks them.

    Args:
        skip: shell patterns of weights and modules that stay dense.
        only: shell patterns of the weights and modules to factor; empty: all that can be factored.
        init: distribution of the first factors: "matched", "replaced", "fan_in" or "fan_out".
        tanh: apply tanh to each half; not for `lowrank`.
        kernels: "tucker" or "matrix": how convolution kernels are factored.
        private: shell patterns of parameters that stay with the client.
        budget_bytes: with gamma="auto": float32 bytes that may travel in one direction.
    """

    skip: Patterns
    only: Patterns
    init: str
    tanh: bool
    kernels: str
    private: Patterns
    budget_bytes: int | None


def fedpara(model: Model, gamma: Gamma = 0.1, *, key: Key = Key(0), **options: Unpack[FactorOptions]) -> Model:
    """Replace the model's weights by FedPara factors, in place, for training from scratch.

    ``W = (X1 Y1^T) o (X2 Y2^T)``, where ``o`` is the entrywise product. Two halves of rank R reach rank R^2 with
    2R(m + n) numbers for an m x n weight.

    Args:
        model: any module; its weights of two dimensions or more are replaced and their values are lost.
        gamma: rank between the smallest useful (0) and the largest that saves numbers (1), or a dict of patterns,
            or "auto" with `budget_bytes`.
        key: the key from which the factors are drawn.
        **options: skip, only, init, tanh, kernels, private, budget_bytes; see `Factorisation`.

    Returns:
        The same model. Make the optimiser afterwards, because its parameters are new.

    Raises:
        LocalError: a pattern matches nothing, a weight is factored already, or no weight can be factored. The model
            is then unchanged.

    Example:
        >>> model = fedpara(nn.Linear(256, 256), gamma=0.0)
        >>> {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("1")}
        {'parametrizations.weight.0.X1': (256, 16), 'parametrizations.weight.0.Y1': (256, 16)}

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, Propositions 1 and 3. Differences: `Factorisation`.
    """
    return Factorisation("fedpara", gamma, **options)(model, key)


def pfedpara(model: Model, gamma: Gamma = 0.1, *, key: Key = Key(0), **options: Unpack[FactorOptions]) -> Model:
    """Replace the model's weights by pFedPara factors, in place: one half is shared, the other is personal.

    ``W = (X1 Y1^T) o (X2 Y2^T + 1)``. X1 and Y1 travel; X2 and Y2 stay with the client. Dense layers and biases
    travel too, unless `private` matches them.

    Args:
        model: any module; its weights of two dimensions or more are replaced and their values are lost.
        gamma: rank between the smallest useful (0) and the largest that saves numbers (1), or a dict of patterns,
            or "auto" with `budget_bytes`.
        key: the key from which the factors are drawn.
        **options: skip, only, init, tanh, kernels, private, budget_bytes; see `Factorisation`.

    Returns:
        The same model. `shared(model)` lists the names that travel.

    Raises:
        LocalError: as for `fedpara`.

    Example:
        >>> from fewbits import shared
        >>> from fewbits.factor import private
        >>> model = pfedpara(nn.Linear(256, 256, bias=False), gamma=0.0)
        >>> [name[-2:] for name in shared(model)], [name[-2:] for name in private(model)]
        (['X1', 'Y1'], ['X2', 'Y2'])

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, section 2. Difference: training starts at X2 = 0.
    """
    return Factorisation("pfedpara", gamma, **options)(model, key)


def lowrank(model: Model, gamma: Gamma = 0.1, *, key: Key = Key(0), **options: Unpack[FactorOptions]) -> Model:
    """Replace the model's weights by plain low-rank factors, in place: the baseline for FedPara.

    ``W = X1 Y1^T``, or ``W = T1 x1 X1 x2 Y1`` for a convolution kernel (Tucker-2). Each layer gets as nearly as
    possible as many numbers as `fedpara` gives it at this gamma.

    Args:
        model: any module; its weights of two dimensions or more are replaced and their values are lost.
        gamma: as for `fedpara`.
        key: the key from which the factors are drawn.
        **options: skip, only, init, kernels, private, budget_bytes; see `Factorisation`.

    Returns:
        The same model.

    Raises:
        LocalError: as for `fedpara`, and when `tanh` is set.

    Example:
        >>> model = lowrank(nn.Linear(256, 256), gamma=0.0)
        >>> {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("1")}
        {'parametrizations.weight.0.X1': (256, 32), 'parametrizations.weight.0.Y1': (256, 32)}

    References:
        The low-rank baseline of Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, section 3.
    """
    return Factorisation("lowrank", gamma, **options)(model, key)
