"""Rotate: a random rotation that both ends draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.finiteness import all_finite
from fewbits.codecs.transforms.bases.rotation import Rotation
from fewbits.codecs.transforms.orthonormal import Orthonormal
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader


@dataclass(frozen=True)
class Rotate(Orthonormal):
    """Rotate the vector at random: as many numbers travel, and they look normal, each as large as the others.

    y = R x travels, and R^T y arrives; R is orthogonal, drawn by both ends and never sent. A coarse quantiser after it
    has no outliers to serve. `Sign(mode="unbiased")` after it is right on average over the rotations.

    Args:
        seed: of R, the same in every round; None: a fresh R from each frame's common key.

    Raises:
        LocalError: seed is neither a whole number nor None; at encoding, an entry of R x leaves the range of its type.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Sign, Spec, chain
        >>> from fewbits.codecs import Rotate
        >>> x, codec = torch.eye(1, 1024).flatten(), chain(Rotate(), Sign(mode="unbiased"))
        >>> sender, receiver = Sender(codec, Spec((1024,)), Key(0)), Receiver(codec, Spec((1024,)))
        >>> frame = sender.send(x)  # 16 header bytes, a scale, 1024 bits
        >>> len(frame), round(float(receiver.receive(frame)[0]), 3)
        (148, 1.0)

    Source: DRIVE and EDEN, Vargaftik et al. 2021 and 2022. Different here: two
    passes of signs and Hadamard blocks, not one; lengths that are no power of two are not padded, but blocks overlap.
    """

    wire_name: ClassVar[str] = "rotate"

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_whole("Rotate: seed", self.seed, hint=", or None for a fresh rotation")

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Key, Tensor]:
        """R x; the side is the key of R."""
        key, x = self.key(keys.common), x.to(wide(spec).torch_dtype)
        y = Rotation(spec.numel, key).forward(x)
        if not all_finite(y):
            raise LocalError(
                f"Rotate: rotated entries of a vector with entries up to {float(x.abs().max()):.4g} leave the range of "
                f"{y.dtype}; scale the vector down"
            )
        return key, y

    def join(self, side: Key, carrier: Tensor, spec: Spec) -> Tensor:
        return Rotation(spec.numel, side).back(carrier.to(wide(spec).torch_dtype)).to(spec.torch_dtype)

    def key(self, common: Key) -> Key:
        """Where R is drawn from."""
        return (common if self.seed is None else Key(self.seed)).fold("rotate")

    def read(self, spec: Spec, src: BitReader, common: Key) -> Key:
        return self.key(common)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [cls(), cls(seed=3)]
