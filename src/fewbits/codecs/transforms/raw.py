"""Raw: every value, at a chosen width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_one_of
from fewbits.codecs.base import Keys, Transform
from fewbits.errors import LocalError
from fewbits.spec import Contract, Spec

WIDTHS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}


@dataclass(frozen=True)
class Raw(Transform):
    """Send every value, as it is or in a narrower float type.

    C(x) = x, rounded to nearest even in the type named.

    Args:
        dtype: "fp16", "bf16", "fp32" or "fp64"; None: the vector's own type, and nothing is lost.

    Raises:
        LocalError: there is no such type; at encoding, a value is beyond its range (never sent as infinity).

    Example:
        >>> import torch
        >>> from fewbits import Key, Raw, Receiver, Sender, Spec
        >>> x = torch.tensor([1.0, 2.71828])
        >>> Receiver(Raw("bf16"), Spec.of(x)).receive(Sender(Raw("bf16"), Spec.of(x), Key(0)).send(x))
        tensor([1.0000, 2.7188])

    Source: the uplink of FedPAQ (Reisizadeh et al. 2020) in 16 bits. Different here: overflow is an error.
    """

    wire_name: ClassVar[str] = "raw"

    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_one_of("Raw: dtype", self.dtype, WIDTHS, " or None")

    def __repr__(self) -> str:
        return f"Raw({self.dtype!r})" if self.dtype else "Raw()"

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[None, Tensor]:
        y = x.to(self.carrier(None, spec).torch_dtype)
        if y.dtype != x.dtype and not bool(torch.isfinite(y).all()):
            largest = torch.finfo(y.dtype).max
            raise LocalError(
                f"Raw: {float(x.abs().max()):.4g} does not fit {self.dtype}, whose largest value is {largest:.4g}"
            )
        return None, y

    def join(self, side: Any, carrier: Tensor, spec: Spec) -> Tensor:
        return carrier.to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        return spec.derive(dtype=WIDTHS[self.dtype]) if self.dtype else spec

    def contract(self, spec: Spec) -> Contract:
        """Lossless when nothing is narrowed; a narrowing cast promises no relative bound (denormals)."""
        lossless = _holds(self.carrier(None, spec).dtype, spec.dtype)
        if lossless:
            return Contract(lossless=True, omega=0.0, delta=1.0, payload_bits=0)
        return Contract(payload_bits=0)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(), cls("fp32"), cls("fp16"), cls("bf16")]


def _holds(carrier: str, value: str) -> bool:
    """True when type `carrier` represents every value of type `value`."""
    order = {"float16": 0, "bfloat16": 0, "float32": 1, "float64": 2}
    return carrier == value or order[carrier] > order[value]
