"""GossipMethod: a method of training without a server, such as DSGD or CHOCO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fewbits.checks import check_number
from fewbits.codecs import Codec, Delta, Lift, as_lift
from fewbits.errors import LocalError
from fewbits.learn.aggregation import NormBound
from fewbits.learn.gossip.prox import NoProx, Prox
from fewbits.spec import TreeSpec

AUTO = "auto"


@dataclass(frozen=True)
class GossipMethod(ABC):
    """The base of all methods without a server: how a node mixes, and what a frame means.

    x = combine(x_half, sum_j w_ij (public_j - public_i)), where a node and its neighbours know the node's *public*
    vector. With `residual`, a frame is C(x_half - public) and is added to it; without, a frame is the public vector;
    its float buffers are sent as differences to those of the start, so that constants cost nothing.

    Args:
        codec: codec C of every frame; it must have no state.
        gamma: consensus step in (0, 1], or "auto"; a larger step agrees sooner, but may be unstable.
        momentum: momentum of the local steps, in [0, 1), kept from round to round.
        norm_bound: how long a neighbour's change may be, by the usual one at the receiver; None: no bound. See
            `fewbits.learn.gossip.neighbour_watch`.

    Raises:
        LocalError: an argument is outside its range, or the codec has a state.

    >>> from fewbits.learn import DSGD, Choco
    >>> isinstance(DSGD(), GossipMethod), Choco().residual
    (True, True)
    """

    codec: Codec
    gamma: float | str = AUTO
    momentum: float = 0.0
    norm_bound: NormBound | None = field(default=NormBound(times=100.0), kw_only=True)

    residual: ClassVar[bool] = False  # whether frames are differences to the public vector

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "codec", as_lift(self.codec, name))
        if self.gamma != AUTO:
            check_number(f"{name}: gamma", self.gamma, "(0, 1]", numpy=True, hint=', or "auto"')
        check_number(f"{name}: momentum", self.momentum, "[0, 1)", numpy=True)
        if not isinstance(self.norm_bound, NormBound | None):
            raise LocalError(f"{name}: norm_bound must be a NormBound or None; got {self.norm_bound!r}")
        if not self.lift.stateless:
            raise LocalError(
                f"{name}: the only state of a link is the node's public vector, but {self.codec!r} has a state"
            )
        if self.residual:
            for part in self.lift.inner:
                Delta(part)  # raises LocalError when the error would be fed back twice

    @property
    def lift(self) -> Lift:
        """The codec as a codec of named tensors."""
        assert isinstance(self.codec, Lift)
        return self.codec

    @property
    def prox(self) -> Prox:
        """The proximal operator after the consensus step."""
        return NoProx()

    @property
    def mixes_first(self) -> bool:
        """Whether the consensus step precedes the frame and uses the public vectors of the previous round."""
        return False

    @property
    def step_size(self) -> float:
        """gamma as a number."""
        if isinstance(self.gamma, str):
            raise LocalError(f"{type(self).__name__}: gamma is still {self.gamma!r}; call fewbits.learn.gossip.tuned")
        return self.gamma

    @abstractmethod
    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """The model after the consensus and proximal steps.

        Args:
            half: x_half, the model after the local steps, (S,).
            consensus: sum_j w_ij (public_j - public_i), (S,).
            eta: learning rate times local steps.
            spec: names and shapes of the S numbers.
        """
