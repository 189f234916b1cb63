"""Factorisation: FedPara, pFedPara or low rank as one value that replaces a model's weights by factors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from fewbits.checks import check_flag, check_number, check_one_of, check_whole
from fewbits.errors import LocalError
from fewbits.factor import compose_once
from fewbits.factor.factors import Factors
from fewbits.factor.few_rows import multiply_with_factors
from fewbits.factor.initial import INITS, draw
from fewbits.factor.layers import DENSE, ORDER, factored, weights
from fewbits.factor.names import mark_private, staying
from fewbits.factor.patterns import within
from fewbits.factor.plan import Gammas, Planned, candidates, largest_gamma, with_ranks
from fewbits.factor.rank import FORMS
from fewbits.factor.recurrent import read_weights_afresh
from fewbits.rng import Key

Model = TypeVar("Model", bound=nn.Module)
Patterns = Iterable[str]
KERNELS = ("tucker", "matrix")


@dataclass(frozen=True, repr=False)
class Factorisation:
    """Replace the weights of a model by small factors, in place, when called with the model.

    - "fedpara": ``W = (X1 Y1^T) o (X2 Y2^T)``, ``o`` entrywise: rank up to R^2 with 2R(m + n) numbers.
    - "pfedpara": ``W = (X1 Y1^T) o (X2 Y2^T + 1)``; X2 and Y2 stay with the client.
    - "lowrank": ``W = X1 Y1^T`` with about as many numbers as FedPara: the baseline.

    A convolution kernel has a core in each half, ``T x1 X x2 Y`` (Proposition 3). The rank is
    ``R = round((1 - gamma) r_min + gamma r_max)``, as in the paper. Biases, norms and all tensors of one dimension
    stay dense. A pattern is a shell pattern on the name of a weight, or of a module and all that is inside it.

    Args:
        form: "fedpara", "pfedpara" or "lowrank".
        gamma: in 0..1; or a dict or tuple of (pattern, gamma), where the first match counts; or "auto".
        skip: patterns of weights that stay dense.
        only: patterns of the weights to factor; empty: all that can be factored.
        init: distribution of the first factors. "matched": W has variance 2/fan_in. "replaced": W has the variance of
            the old weight. "fan_in", "fan_out": each factor by He's rule.
        tanh: apply tanh to each half.
        kernels: "tucker": kernels with a core; "matrix": kernels as (out, in*k*k) matrices, Proposition 1.
        private: patterns of parameters that stay with the client, besides the second halves of pFedPara.
        budget_bytes: with gamma="auto": most float32 bytes that the model may send in one direction.

    Raises:
        LocalError: an argument is out of range, or gamma="auto" and budget_bytes do not come together.

    Example:
        >>> factorise = Factorisation("fedpara", gamma=0.1, skip=["1"])
        >>> model = factorise(nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 10)))
        >>> sum(p.numel() for p in model.parameters())
        24330

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara: Low-rank Hadamard Product for Communication-Efficient Federated Learning,
        ICLR 2022. Differences: the variance of W is exact for each draw, and pFedPara starts at X2 = 0.
    """

    wire_name: ClassVar[str] = "factorisation"

    form: str = "fedpara"  # or "pfedpara", "lowrank"
    # 0..1; smaller: fewer numbers, at 0 the fewest that reach full rank; larger: up to nearly the dense model's; or
    # (pattern, gamma) pairs, where the first match counts; or "auto" with budget_bytes
    gamma: float | str | Mapping[str, float] | tuple[tuple[str, float], ...] = 0.1
    skip: Patterns = ()  # patterns of weights that stay dense
    only: Patterns = ()  # patterns of weights to factor; empty: all that can be factored
    init: str = "matched"  # W has variance 2/fan_in; or "replaced", "fan_in", "fan_out"
    tanh: bool = False  # tanh on each half; the paper finds no difference
    kernels: str = "tucker"  # or "matrix": kernels as (out, in*k*k) matrices, Proposition 1
    private: Patterns = ()  # parameters that stay with the client besides pFedPara's second halves, e.g. "*.bias"
    budget_bytes: int | None = None  # with gamma="auto": bytes; larger: larger gamma, more travels

    def __post_init__(self) -> None:
        for name, valid in (("form", FORMS), ("init", INITS), ("kernels", KERNELS)):
            check_one_of(f"Factorisation: {name}", getattr(self, name), valid)
        check_flag("Factorisation: tanh", self.tanh)
        for name in ("skip", "only", "private"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        object.__setattr__(self, "gamma", _gammas(self.gamma))
        if (self.gamma == "auto") != (self.budget_bytes is not None):
            raise LocalError(
                f"Factorisation: gamma='auto' and budget_bytes go together; got gamma={self.gamma!r}, "
                f"budget_bytes={self.budget_bytes!r}"
            )
        if self.budget_bytes is not None:
            check_whole("Factorisation: budget_bytes", self.budget_bytes, 1, numpy=True)
        if self.tanh and self.form == "lowrank":
            raise LocalError("Factorisation: tanh is for the two halves of fedpara and pfedpara; got form='lowrank'")

    def __repr__(self) -> str:
        shown = [f.name for f in fields(self) if f.name == "form" or getattr(self, f.name) != f.default]
        return f"Factorisation({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __call__(self, model: Model, key: Key = Key(0)) -> Model:
        """Replace the weights by factors drawn from the key, in place, and return the model.

        The values of the weights are lost: this is for training from scratch. Make the optimiser afterwards.

        Args:
            model: any module.
            key: the key from which the factors are drawn.

        Raises:
            LocalError: a pattern matches nothing, a weight is factored already, or none can be factored. The model
                is then unchanged.
        """
        planned, stays = self.plan(model)
        chosen = [p for p in planned if not p.reason]
        variances = [self._variance(p) for p in chosen]
        for p, variance in zip(chosen, variances, strict=True):
            _place(p, self, variance, key)
        for p in planned:
            if p.reason:
                for place in p.weight.places:
                    reasons = getattr(place.module, DENSE, {})
                    setattr(place.module, DENSE, {**reasons, place.attribute: p.reason})
        mark_private(model, stays)
        if any(len(p.weight.places) > 1 for p in chosen):
            compose_once.attach(model)
        return model

    def plan(self, model: nn.Module) -> tuple[list[Planned], set[str]]:
        """Plan every weight without changing the model; also the names, before factoring, that would stay private."""
        found = weights(model, self.kernels == "matrix")
        earlier = self._refuse_factored(model)
        stays = staying(model, self.private)
        planned = candidates(found, tuple(self.skip), tuple(self.only), earlier)
        gamma = self.gamma
        if gamma == "auto":
            assert self.budget_bytes is not None
            gamma = largest_gamma(model, planned, self.form, stays, self.budget_bytes)
        planned = with_ranks(planned, self.form, gamma)  # pyright: ignore[reportArgumentType]
        if all(p.reason for p in planned):
            reasons = "; ".join(f"{p.weight.name}: {p.reason}" for p in planned[:8])
            raise LocalError(
                f"{self.form}: no weight of this {type(model).__name__} can be factored ({reasons or 'none'})"
            )
        return planned, stays

    def _refuse_factored(self, model: nn.Module) -> list[str]:
        """List the weights that are factored already; LocalError when the patterns choose one of them."""
        earlier = list(factored(model))
        for place, owner in earlier:
            chosen = not self.only or any(within(place.name, pattern) for pattern in self.only)
            if chosen and not any(within(place.name, pattern) for pattern in self.skip):
                raise LocalError(
                    f"{place.name}: asked for {self.form}, but it is factored already ({owner.extra_repr()}); "
                    "merge() first, or choose others with only="
                )
        return [place.name for place, _ in earlier]

    def _variance(self, planned: Planned) -> float:
        if self.init != "replaced":
            return planned.weight.variance
        variance = planned.weight.tensor.detach().double().square().mean().item()
        if not 0 < variance < math.inf:
            raise LocalError(
                f"{planned.weight.name}: init='replaced' needs a weight to imitate; its mean square is {variance}"
            )
        return variance


def _place(planned: Planned, how: Factorisation, variance: float, key: Key) -> None:
    """Register one set of factors at every place of a weight."""
    weight = planned.weight
    assert weight.grid is not None
    tensor = weight.tensor
    factors = Factors(how.form, tuple(tensor.shape), weight.grid, planned.ranks, how.tanh, tensor)
    draw(factors, variance, how.init, weight.padding, key.fold(weight.name))
    for place in weight.places:
        if not hasattr(place.module, ORDER):
            setattr(place.module, ORDER, tuple(place.module._parameters))
        parametrize.register_parametrization(place.module, place.attribute, factors)
        if isinstance(place.module, nn.RNNBase):
            read_weights_afresh(place.module)
        multiply_with_factors(place.module)
    factors.placing = False


def _patterns(name: str, given: Any) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise LocalError(f"Factorisation: {name} takes shell patterns on names; got {given!r}")
    return patterns


def _gammas(given: Any) -> Gammas | str:
    if given == "auto":
        return "auto"
    pairs = tuple(given.items()) if isinstance(given, Mapping) else given
    if isinstance(pairs, tuple):
        return tuple((_patterns("gamma", pattern)[0], _gamma(gamma)) for pattern, gamma in pairs)
    return _gamma(pairs)


def _gamma(given: Any) -> float:
    check_number("Factorisation: gamma", given, "[0, 1]", hint=", patterns with one each, or 'auto'")
    return float(given)
