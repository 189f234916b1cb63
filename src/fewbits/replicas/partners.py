"""RandomPartner: gossip with one random rank at each outer step, instead of a mean over all."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.checks import check_number
from fewbits.codecs import Codec, Delta, Each, Flat, Lift, Raw, Route, Transform, flat
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.rng import Key

AnyCodec = str | Method | Codec | Transform | Coder
DENSE = flat(Raw())


@dataclass(frozen=True)
class RandomPartner:
    """NoLoCo: at each outer step every rank exchanges one frame with one random partner, and no rank waits for all.

    Rank i has slow weights of its own, theta_i. With ``u_i = theta_i - now_i``, and j its partner,
    ``u = (u_i + u_j) / 2 + pull * (theta_i - theta_j) / 2`` and ``theta_i' = optimizer(theta_i, u)``. The second term
    draws both to their mean. One vector travels, ``v_i = theta_i - u_i / pull``, as a lossy difference to what the
    partner has of it. With w what the partners then have, ``u = u_i + pull * (w_i - w_j) / 2``. For exact frames that
    is the formula above; and whatever the codec, the mean of a pair's u is the exact one. With an odd number of ranks,
    one steps alone.

    Args:
        method: what carries the differences: a codec, or a method as for `OuterStep`, without error feedback.
        pull: how strongly the partners draw each other, gamma / beta of the paper, above 0. With 1, v is the trained
            model itself.

    Raises:
        LocalError: pull is not in [1e-6, 1e6], or the method is a RandomPartner.

    Example:
        >>> RandomPartner("fedpaq@bits=8", pull=0.5)
        RandomPartner(method='fedpaq@bits=8', pull=0.5)

    References:
        Kolehmainen et al., NoLoCo: No-all-reduce Low Communication Training Method for Large Models, arXiv 2506.10911;
        its published code has gamma = beta = 0.7 and momentum 0.5. Different here: one compressed vector travels in
        place of two in float32.
    """

    method: AnyCodec = DENSE  # of differences
    pull: float = 1.0  # gamma / beta; larger: models closer to each other, and more of the codec's noise

    def __post_init__(self) -> None:
        check_number("RandomPartner: pull", self.pull, "[1e-6, 1e6]", numpy=True)
        if isinstance(self.method, RandomPartner):
            raise LocalError(f"RandomPartner: method must be a codec or a method; got {self.method!r}")


def partner_of(key: Key, exchange: int, rank: int, size: int) -> int:
    """The partner of a rank at an outer step, counted from 0; the rank itself, when it steps alone.

    >>> [partner_of(Key(0), 0, rank, 5) for rank in range(5)]
    [3, 1, 4, 0, 2]
    """
    order = key.fold("partners", exchange).permutation(size).tolist()
    place = order.index(rank) ^ 1
    return order[place] if place < size else rank


def differences(codec: Lift) -> Lift:
    """The codec around differences to what the receiver has.

    Raises:
        LocalError: it feeds its own errors back, which differences do already, or is not one of flat, each and route.
    """
    try:
        if isinstance(codec, Flat):
            return Flat(Delta(codec.codec))
        if isinstance(codec, Each):
            return Each(Delta(codec.codec))
        if isinstance(codec, Route):
            return Route(tuple((pattern, Delta(one)) for pattern, one in codec.rules))
    except LocalError as error:
        raise LocalError(f"RandomPartner sends differences to what the partner has: {error}") from None
    raise LocalError(f"RandomPartner: the codec must be flat, each or route; got {codec!r}")
