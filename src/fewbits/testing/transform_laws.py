"""Laws of the transforms of a chain: what `carrier`, `sparse`, `linear` and `projection` say is so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewbits.codecs import Chain, Keys, Transform
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE
from fewbits.testing.law import close, demand


class Step(NamedTuple):
    """One transform at work on one vector."""

    transform: Transform
    spec: Spec
    x: Tensor  # (numel,)
    side: Any
    carrier: Tensor  # (m,)

    def join(self, carrier: Tensor) -> Tensor:
        """x_hat of another carrier.  # (numel,) float64"""
        return self.transform.join(self.side, carrier, self.spec).double()


def _steps(case: Case) -> Iterator[Step]:
    """Each transform of a chain, on three vectors."""
    for seed in range(3) if isinstance(case.codec, Chain) else ():
        x, spec = case.vector(Key(seed)), case.flat
        for transform in case.codec.transforms:  # pyright: ignore
            side, carrier = transform.split(x, spec, Keys(PRIVATE.fold(seed), COMMON.fold(seed)))
            yield Step(transform, spec, x, side, carrier)
            x, spec = carrier, transform.carrier(side, spec)


@codec_law
def a_carrier_is_what_was_declared_and_join_gives_the_vector_back(case: Case) -> None:
    """The carrier has the Spec that `carrier` says; `join` gives shape and dtype of the vector."""
    for transform, spec, x, side, carrier in _steps(case):
        declared, largest = transform.carrier(side, spec), transform.carrier(None, spec)
        fits = (declared.numel,) == tuple(carrier.shape) and declared.torch_dtype == carrier.dtype
        demand(fits, f"{transform!r}: the carrier is not as declared", input=x, declared=declared, carrier=carrier)
        within = declared.numel <= largest.numel
        demand(within, f"{transform!r}: carrier(None) is not the largest", one=declared, largest=largest)
        demand(declared.integer == transform.quantises, f"{transform!r}: set `quantises` aright", declared=declared)
        joined = transform.join(side, carrier, spec)
        fits = joined.shape == x.shape and joined.dtype == x.dtype
        demand(fits, f"{transform!r}: join gives another shape or dtype", vector=x, joined=joined)


@codec_law
def levels_lie_in_the_range_that_was_declared(case: Case) -> None:
    """The levels of a quantiser lie in [low, high] of its carrier's Spec."""
    for transform, spec, x, side, carrier in _steps(case):
        declared = transform.carrier(side, spec)
        if declared.integer and carrier.numel():
            low, high = int(carrier.min()), int(carrier.max())
            within = (declared.low or 0) <= low and high <= (declared.high or 0)
            demand(within, f"{transform!r}: levels {low}..{high}", input=x, declared=declared)


@codec_law
def a_sparse_side_is_an_ascending_support(case: Case) -> None:
    """`sparse`: the side is an ascending support, and `join` scatters the carrier onto it."""
    for step in _steps(case):
        if step.transform.sparse:
            support = step.side
            ascending = isinstance(support, Tensor) and bool((support[1:] > support[:-1]).all())
            demand(ascending, f"{step.transform!r}: the side is no ascending support", input=step.x, side=support)
            expected = torch.zeros(step.spec.numel, dtype=torch.float64).index_put((support,), step.carrier.double())
            close(step.join(step.carrier), expected, 0, 0, f"{step.transform!r}: join does not scatter")


@codec_law
def a_linear_join_is_linear(case: Case) -> None:
    """`linear`: join(2a - 3b) is 2 join(a) - 3 join(b)."""
    for step in _steps(case):
        if step.transform.linear and not step.transform.quantises:
            a, b = step.carrier, step.carrier.flip(0)
            says = f"{step.transform!r}: join is not linear in the carrier"
            close(step.join(2 * a - 3 * b), 2 * step.join(a) - 3 * step.join(b), 1e-4, 1e-4, says)


@codec_law
def a_projection_is_orthogonal(case: Case) -> None:
    """`projection`: what is lost is orthogonal to what is left."""
    for step in _steps(case):
        if step.transform.projection:
            left = step.join(step.carrier)
            lost = step.x.double() - left
            product, scale = float(lost @ left), float(step.x.double().square().sum())
            says = f"{step.transform!r}: what is lost is not orthogonal to what is left"
            demand(abs(product) <= 1e-5 * scale, says, input=step.x, left=left, product=product)
