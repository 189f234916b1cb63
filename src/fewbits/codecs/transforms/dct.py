"""DCT: the cosine coefficients of each chunk of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.finiteness import all_finite
from fewbits.codecs.transforms.orthonormal import Orthonormal
from fewbits.codecs.transforms.scale_blocks import ScaleBlocks
from fewbits.errors import LocalError
from fewbits.spec import Spec


@dataclass(frozen=True)
class DCT(Orthonormal):
    """Send the cosine coefficients of each chunk: as many numbers, of which few are large where neighbours are alike.

    y_k = sqrt(2 / c) sum_j x_j cos(pi (2 j + 1) k / (2 c)) for each chunk of c entries, y_0 with sqrt(1 / c): DCT-II,
    orthonormal. Chunks begin anew with each tensor. What is left at its end is cut into smaller powers of two.

    Args:
        chunk: c, a power of two, 2..1024; larger: neighbours farther apart are joined, more time (c sums an entry).

    Raises:
        LocalError: chunk is none of these; at encoding, a coefficient leaves the range of its type.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec, TopK, chain
        >>> from fewbits.codecs import DCT
        >>> x, codec = torch.ones(64), chain(DCT(64), TopK(1 / 64))
        >>> found = Receiver(codec, Spec((64,))).receive(Sender(codec, Spec((64,)), Key(0)).send(x))
        >>> bool(torch.allclose(found, x))
        True

    Source: DeMo, Peng, Quesnelle and Kingma (arXiv 2411.19870). Different here: chunks lie in a row of memory, and are
    not squares of a matrix; cosines are found by square roots alone, so that all machines have the same bits.
    """

    wire_name: ClassVar[str] = "dct"

    chunk: int = 64

    def __post_init__(self) -> None:
        check_whole("DCT: chunk", self.chunk, 2, 1024)
        if self.chunk & (self.chunk - 1):
            raise LocalError(f"DCT: chunk must be a power of two, such as 64; got {self.chunk}")

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[None, Tensor]:
        values = x.detach().cpu().to(wide(spec).torch_dtype).numpy()
        y = torch.from_numpy(kernels.dct.transform(values, ScaleBlocks("tensor").offsets(spec), self.chunk))
        if not all_finite(y):
            raise LocalError(
                f"DCT: coefficients of entries up to {float(x.abs().max()):.4g} leave the range of {y.dtype}; "
                "scale the vector down"
            )
        return None, y

    def join(self, side: None, carrier: Tensor, spec: Spec) -> Tensor:
        values = carrier.to(wide(spec).torch_dtype).numpy()
        x = kernels.dct.back(values, ScaleBlocks("tensor").offsets(spec), self.chunk)
        return torch.from_numpy(x).to(spec.torch_dtype)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(), cls(4)]
