"""RandK: a random support that both ends know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number, check_one_of
from fewbits.codecs import large
from fewbits.codecs.base import Keys, Transform
from fewbits.codecs.transforms.topk import count
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader

MODES = ("contractive", "unbiased")


@dataclass(frozen=True)
class RandK(Transform):
    """Keep entries at random positions that both ends draw and never send.

    C(x)_i = a x_i on a support of k = ceil(fraction * n) positions, else 0. With `contractive`, a = 1 and
    E|C(x) - x|^2 = (1 - k/n) |x|^2. With `unbiased`, a = n/k, E C(x) = x and omega = n/k - 1.

    Args:
        fraction: share of the entries that travel, in (0, 1]; smaller: fewer bytes, more variance.
        mode: "contractive" or "unbiased"; error feedback needs the first.

    Raises:
        LocalError: fraction is outside (0, 1]; there is no such mode; unbiased stands under error feedback.

    Example:
        >>> import torch
        >>> from fewbits import Key, RandK, Receiver, Sender, Spec
        >>> x = torch.arange(1.0, 9.0)
        >>> found = Receiver(RandK(0.25), Spec.of(x)).receive(Sender(RandK(0.25), Spec.of(x), Key(0)).send(x))
        >>> int((found == x).sum()), int((found == 0).sum())
        (2, 6)

    Source: the random mask of Konecny et al. 2016; Stich et al. 2018. Different here: senders with one common key share
    the support, so their carriers may be added before they are expanded.
    """

    wire_name: ClassVar[str] = "randk"

    fraction: float
    mode: str = "contractive"

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("RandK: fraction", self.fraction, "(0, 1]")
        object.__setattr__(self, "fraction", float(self.fraction))
        check_one_of("RandK: mode", self.mode, MODES)

    @property
    def projection(self) -> bool:
        return self.mode == "contractive"

    def support(self, spec: Spec, common: Key) -> Tensor:
        """The positions both ends draw.  # (k,) int64, ascending"""
        return torch.from_numpy(common.fold("randk").subset(count(self.fraction, spec.numel), spec.numel))

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Tensor, Tensor]:
        support = self.support(spec, keys.common)
        return support, x[support]

    def join(self, side: Tensor, carrier: Tensor, spec: Spec) -> Tensor:
        """Scatter onto zeros, with n/k when unbiased."""
        x = large.zeros(spec.numel, spec.torch_dtype)
        values = carrier if self.mode == "contractive" or not len(side) else carrier * (spec.numel / len(side))
        x[side] = values.to(x.dtype)
        return x

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(shape=(count(self.fraction, spec.numel),), segments=())

    def read(self, spec: Spec, src: BitReader, common: Key) -> Tensor:
        """Nothing is read: the support is drawn again."""
        return self.support(spec, common)

    def contract(self, spec: Spec) -> Contract:
        """delta = k/n in expectation, or omega = n/k - 1."""
        k = count(self.fraction, spec.numel)
        if self.mode == "unbiased":
            return Contract(omega=spec.numel / k - 1 if k else 0.0, payload_bits=0, linear=True)
        return Contract(delta=k / spec.numel if k else 1.0, payload_bits=0, linear=True)

    def check(self) -> None:
        """Multiplying by n/k under error feedback diverges: the residual grows by n/k - 1 in every round."""
        if self.mode == "unbiased":
            raise LocalError(
                f"{self!r} multiplies by n/k and is not a contraction, so feedback of its error diverges; "
                'use RandK(mode="contractive")'
            )

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(0.1), cls(0.25, mode="unbiased"), cls(1.0)]
