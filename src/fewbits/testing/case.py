"""Case: a codec on trial and the Spec that it is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Codec, Transform, as_lift, chain
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links import Receiver, Sender
from fewbits.spec import Spec, TreeSpec
from fewbits.testing.ends import ends, run
from fewbits.testing.law import Law
from fewbits.testing.values import TREE, stream, vector


@dataclass(frozen=True)
class Case:
    """A codec on trial. With `only`, laws stay with `spec`; otherwise they try other shapes and dtypes, too."""

    codec: Codec
    spec: Spec | TreeSpec = TREE
    only: bool = False

    def __str__(self) -> str:
        return repr(self.codec)

    @property
    def flat(self) -> Spec:
        """The Spec of all numbers as one vector."""
        dtype = self.spec.dtype if isinstance(self.spec, Spec) else "float32"
        segments = self.spec.segments if isinstance(self.spec, Spec) else ()
        return Spec((self.spec.numel,), dtype, segments=segments)

    def stream(self, rounds: int, seed: int = 7) -> Iterator[Any]:
        """Updates that point roughly the same way."""
        return stream(rounds, seed, None, self.spec)

    def first(self, seed: int = 7) -> Any:
        """One update."""
        return next(self.stream(1, seed))

    def vector(self, key: Any) -> Tensor:
        """One update as a vector.  # (numel,)"""
        return torch.from_numpy(vector(key, self.flat.numel)).to(self.flat.torch_dtype)

    def ends(self) -> tuple[Sender, Receiver]:
        """A fresh link."""
        return ends(self.codec, self.spec)

    def run(self, xs: Any) -> tuple[list[bytes], list[Any], Sender, Receiver]:
        """All values over a fresh link."""
        return run(self.codec, xs, self.spec)

    def alone(self) -> list[Case]:
        """This case and, unless it stays with its spec, one of a lone tensor, which codecs may see uncopied."""
        lone = Spec((self.spec.numel,))
        return [self, *([replace(self, spec=lone)] if not self.only and self.takes(lone) else [])]

    def takes(self, spec: Spec | TreeSpec) -> bool:
        """False for a lift that says in `check` that it does not fit `spec`: `route` goes by names."""
        if not self.codec.lift:
            return True
        try:
            as_lift(self.codec, "testing").check(spec)
        except LocalError:
            return False
        return True


def as_codecs(target: Transform | Codec) -> list[Codec]:
    """A codec as it is; a transform at the end of a chain, once more with an entropy coder if it gives levels."""
    if isinstance(target, Codec):
        return [target]
    return [chain(target), *([chain(target, Rans())] if target.quantises else [])]


def cases(target: Transform | Codec, spec: Spec | TreeSpec | None = None) -> list[Case]:
    """The cases of one call to a law."""
    return [Case(codec, TREE if spec is None else spec, spec is not None) for codec in as_codecs(target)]


def codec_law(function: Any) -> Law[Case]:
    """A law of every codec: called with a codec or a transform and, if need be, the one Spec that it takes."""
    return Law(function, cases)
