"""FedPara, pFedPara and their low-rank baseline as one value that turns a model's weights into factors."""

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
    """How to factor a model (Hyeon-Woo, Ye-Bin and Oh 2022); called with one, it does so in place.

    - "fedpara": W = (X1 Y1^T) o (X2 Y2^T), o the product entry by entry: rank up to R^2 for 2R(m + n) numbers.
    - "pfedpara": W = (X1 Y1^T) o (X2 Y2^T + 1); X2 and Y2 stay with the client.
    - "lowrank": W = X1 Y1^T of twice the rank, so that it has FedPara's number of numbers: the baseline.

    Kernels of convolutions have a core T in each half instead (Proposition 3). R is the same rule in every form:
    round((1 - gamma) r_min + gamma r_max). Biases, norms and all tensors of one dimension stay as they are. Patterns
    are shell patterns on the names of modules (and all inside them) or weights; one that matches nothing is an error.
    """

    wire_name: ClassVar[str] = "factorisation"

    form: str = "fedpara"  # or "pfedpara", "lowrank"
    # 0..1: 0 the fewest numbers of full reach, 1 nearly the dense model's; or patterns with one each, the first that
    # matches counts; or "auto" with budget_bytes
    gamma: float | str | Mapping[str, float] | tuple[tuple[str, float], ...] = 0.1
    skip: Patterns = ()  # stay dense
    only: Patterns = ()  # empty: all that can be factored
    init: str = "matched"  # W has variance 2/fan_in; "replaced": the old weight's; "fan_in", "fan_out": factors by He
    tanh: bool = False  # on each half; the paper finds no difference
    kernels: str = "tucker"  # or "matrix": kernels as (out, in*k*k) matrices, Proposition 1
    private: Patterns = ()  # parameters that stay with the client besides pFedPara's second halves, e.g. "*.bias"
    budget_bytes: int | None = None  # with gamma="auto": fp32 bytes of all that travels, one way

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
        """Replace the model's weights by factors drawn from the key, in place, and return it.

        What the weights held is lost: this is for training from scratch. Make the optimiser afterwards. LocalError,
        and an untouched model, when a pattern matches nothing, a weight is factored already, or none can be factored.
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
        """What would become of every weight, and the names (before factoring) of what would stay private."""
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
        """The names of the weights that are factored already; none of them may be asked for."""
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
    """One set of factors at every place of a weight."""
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
