"""GossipMethod: what makes one way of training without a server differ from another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.checks import check_number
from fewbits.codecs import Codec, Delta, Lift, as_lift
from fewbits.errors import LocalError
from fewbits.learn.gossip.prox import NoProx, Prox
from fewbits.spec import TreeSpec

AUTO = "auto"


@dataclass(frozen=True)
class GossipMethod(ABC):
    """The step that mixes, and what a frame means; `Node` does the rest.

    Every node has a *public* vector, which it and its neighbours hold alike, and the *consensus* term is
    sum_j w_ij (public_j - public_i). With `residual`, frames hold C(x - public) and are added to the public vector
    (CHOCO, Malcom); without, a frame is the public vector (DSGD). `eta` is the length of the local step that was
    taken: learning rate times steps.
    """

    codec: Codec  # C, of every frame; stateless
    gamma: float | str = AUTO  # consensus step in (0, 1], or "auto"; larger: agrees sooner, then unstable
    momentum: float = 0.0  # in [0, 1), of the local steps, kept from round to round

    residual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "codec", as_lift(self.codec, name))
        if self.gamma != AUTO:
            check_number(f"{name}: gamma", self.gamma, "(0, 1]", numpy=True, hint=', or "auto"')
        check_number(f"{name}: momentum", self.momentum, "[0, 1)", numpy=True)
        if not self.lift.stateless:
            raise LocalError(f"{name}: what a link remembers is the node's public vector; {self.codec!r} has a state")
        if self.residual:
            for part in self.lift.inner:
                Delta(part)  # says why when the error would be fed back twice

    @property
    def lift(self) -> Lift:
        """The codec, of a dict of tensors."""
        assert isinstance(self.codec, Lift)
        return self.codec

    @property
    def prox(self) -> Prox:
        """What comes after the consensus step."""
        return NoProx()

    @property
    def mixes_first(self) -> bool:
        """Whether the consensus step comes before the frame, with what was public in the round before."""
        return False

    @property
    def step_size(self) -> float:
        """gamma, once it is a number."""
        if isinstance(self.gamma, str):
            raise LocalError(f"{type(self).__name__}: gamma is still {self.gamma!r}; see fewbits.learn.gossip.tuned")
        return self.gamma

    @abstractmethod
    def combine(self, half: Tensor, consensus: Tensor, eta: float, spec: TreeSpec) -> Tensor:
        """The model after consensus and proximal step; `half`: after the local step.  # (numel,), all three"""
