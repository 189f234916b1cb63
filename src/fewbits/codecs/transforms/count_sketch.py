"""CountSketch and MeanSketch: a vector as a table of signed sums, and two estimates of what it was."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number, check_one_of, check_whole
from fewbits.codecs.base import Keys, Transform, wide
from fewbits.codecs.transforms.sketch import Sketch, check
from fewbits.codecs.transforms.sparse import magnitudes
from fewbits.codecs.transforms.topk import count
from fewbits.errors import LocalError
from fewbits.rng import Key
from fewbits.spec import Contract, Spec
from fewbits.wire import BitReader

MODES = ("unbiased", "contractive")


@dataclass(frozen=True)
class Sketched(Transform):
    """Send S x, `rows` times `columns` numbers; columns and signs come from a key and are never sent.

    With a `seed` they stay the same for ever, so that tables of different rounds may be added (FetchSGD); with None
    they come from the frame's common key. `unbiased` gives the estimate itself; `contractive` 1/(1+omega) of it, which
    may stand under error feedback. Half-precision vectors have float32 tables.
    """

    columns: int  # more: more bytes, less noise
    rows: int = 5  # estimates of each entry, 1..64
    seed: int | None = 7  # None: another sketch in each frame
    mode: str = "unbiased"  # or "contractive"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check(owner, self.rows, self.columns)
        if self.seed is not None:
            check_whole(f"{owner}: seed", self.seed, hint=", or None for a fresh sketch")
        check_one_of(f"{owner}: mode", self.mode, MODES)

    @property
    @abstractmethod
    def noise(self) -> float:
        """Bound on the variance of the estimate over that of one row's."""

    @abstractmethod
    def estimate(self, sketch: Sketch, table: Tensor) -> Tensor:
        """The vector as far as the table tells.  # (numbers,) -> (numel,)"""

    def key(self, common: Key) -> Key:
        """Where columns and signs come from."""
        return (common if self.seed is None else Key(self.seed)).fold("count_sketch")

    def sketch(self, spec: Spec, key: Key | None = None) -> Sketch:
        """S for a vector of this Spec and the side; without one, that of the seed."""
        return Sketch(spec.numel, self.rows, self.columns, key or self.key(Key(0)))

    def split(self, x: Tensor, spec: Spec, keys: Keys) -> tuple[Key, Tensor]:
        """S x; the side is the key of S.

        Raises LocalError when a sum leaves the range of its type.
        """
        key = self.key(keys.common)
        table = self.sketch(spec, key).of(x)
        if not bool(torch.isfinite(table).all()):
            raise LocalError(
                f"{type(self).__name__}: sums of entries up to {float(x.abs().max()):.4g} leave the range of "
                f"{table.dtype}; scale the vector down"
            )
        return key, table

    def join(self, side: Key, carrier: Tensor, spec: Spec) -> Tensor:
        """The estimate, times 1/(1+omega) when contractive; within the range of spec's type."""
        sketch = self.sketch(spec, side)
        x = self.estimate(sketch, carrier.to(wide(spec).torch_dtype))
        if self.mode == "contractive":
            x = x * (1 / (1 + self.omega(spec)))
        largest = torch.finfo(spec.torch_dtype).max
        return x.clamp_(-largest, largest).to(spec.torch_dtype)

    def carrier(self, side: Any, spec: Spec) -> Spec:
        """The table, laid row after row."""
        return replace(wide(spec), shape=(self.sketch(spec).numbers,), segments=())

    def read(self, spec: Spec, src: BitReader, common: Key) -> Key:
        return self.key(common)

    def omega(self, spec: Spec) -> float:
        """(D - 1) / columns per row, by `noise`; 0 for a vector that is its own table. Hashes have 32 bits."""
        if self.sketch(spec).whole:
            return 0.0
        return self.noise * (spec.numel - 1) * (1 / self.columns + 2.0**-32)

    def contract(self, spec: Spec) -> Contract:
        """With a fresh sketch in each frame: unbiased with omega, or a contraction with 1/(1+omega).

        With a fixed one the same entries meet in every round, and only linearity, if any, is promised.
        """
        if self.sketch(spec).whole:
            return Contract(lossless=True, omega=0.0, delta=1.0, payload_bits=0, linear=self.linear)
        if self.seed is not None or wide(spec) != spec:
            return Contract(payload_bits=0, linear=self.linear)
        if self.mode == "contractive":
            return Contract(delta=1 / (1 + self.omega(spec)), payload_bits=0, linear=self.linear)
        return Contract(omega=self.omega(spec), payload_bits=0, linear=self.linear)

    def check(self) -> None:
        """The noise of an unbiased estimate is longer than the vector: feedback of its error diverges.

        So it does with heavy hitters when they are more than about a tenth of the columns, which are not known here.
        """
        if self.mode == "unbiased":
            raise LocalError(
                f"{self!r} adds more noise than there is signal, so feedback of its error diverges; "
                f'use {type(self).__name__}(mode="contractive"), or error feedback at the server, FetchSGD'
            )


@dataclass(frozen=True)
class MeanSketch(Sketched):
    """Send a table of signed sums; receive the mean of the rows' estimates.

    x_hat = S^T S x in the right scale: linear, so tables are added and expanded once. Unbiased with
    omega = (D - 1) / (rows * columns): no better than `Subspace` or `RandK` of as many numbers.

    Args:
        columns: numbers in each row; more: more bytes, less noise.
        rows: estimates of each entry, 1..64.
        seed: of the hashes, the same in every round (`FetchSGD` adds tables of several); None: fresh in each frame.
        mode: "unbiased", or "contractive": 1 / (1 + omega) of the estimate, which may stand under error feedback.

    Raises:
        LocalError: an option is none of these; at encoding, a sum leaves the range of its type.

    Example:
        >>> import torch
        >>> from fewbits import Key, Sender, Spec
        >>> from fewbits.codecs import MeanSketch
        >>> len(Sender(MeanSketch(10, rows=3), Spec((1000,)), Key(0)).send(torch.ones(1000)))  # 16 bytes, 30 numbers
        136

    Source: Charikar, Chen, Farach-Colton 2002. Different here: the mean, which a server can take after summing.
    """

    wire_name: ClassVar[str] = "mean_sketch"

    linear: ClassVar[bool] = True

    @property
    def noise(self) -> float:
        return 1 / self.rows

    def estimate(self, sketch: Sketch, table: Tensor) -> Tensor:
        return sketch.mean(table)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [
            cls(8, rows=3),
            cls(6, rows=4, seed=None),
            cls(8, rows=3, seed=None, mode="contractive"),
        ]


@dataclass(frozen=True)
class CountSketch(Sketched):
    """Send a table of signed sums; receive the median of the rows' estimates.

    x_hat_i = median over rows r of sign_r(i) * table[r, column_r(i)]; with a `fraction`, only the ceil(fraction * n)
    largest estimates, the heavy hitters. Without one it is unbiased, omega = rows / ceil(rows/2) * (D - 1) / columns, a
    bound that is far from tight: errors of one row are symmetric, and (x_hat_i - x_i)^2 is at most the mean of the
    larger half of the rows' squared errors.

    Args:
        columns: numbers in each row; more: more bytes, less noise.
        rows: estimates of each entry, 1..64; more: outliers are rarer.
        seed: of the hashes, the same in every round; None: fresh in each frame.
        mode: "unbiased", or "contractive": 1 / (1 + omega) of the estimate, which may stand under error feedback.
        fraction: share of entries that arrive, in (0, 1]; None: all, which is mostly noise.

    Raises:
        LocalError: an option is none of these; fraction goes with contractive; at encoding, a sum leaves the range of
            its type.

    Example:
        >>> import torch
        >>> from fewbits import Key, Receiver, Sender, Spec
        >>> from fewbits.codecs import CountSketch
        >>> x = torch.zeros(1000)
        >>> x[7] = 5.0
        >>> codec = CountSketch(20, rows=5, fraction=0.001)
        >>> Receiver(codec, Spec.of(x)).receive(Sender(codec, Spec.of(x), Key(0)).send(x))[7]
        tensor(5.)

    Source: Charikar, Chen, Farach-Colton 2002. Different here: the median is not linear, so messages are expanded one
    by one; a server that sums tables takes `MeanSketch` and `FetchSGD`.
    """

    wire_name: ClassVar[str] = "count_sketch"

    fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction is None:
            return
        check_number("CountSketch: fraction", self.fraction, "(0, 1]")
        object.__setattr__(self, "fraction", float(self.fraction))
        if self.mode != "unbiased":
            raise LocalError("CountSketch: kept estimates are given as they are; fraction goes with mode='unbiased'")

    @property
    def noise(self) -> float:
        """The median of independent rows that err symmetrically."""
        return self.rows / ((self.rows + 1) // 2)

    def estimate(self, sketch: Sketch, table: Tensor) -> Tensor:
        """The median; zero outside the heavy hitters."""
        x = sketch.median(table)
        if self.fraction is None or not bool(torch.isfinite(x).all()):
            return x
        support = torch.from_numpy(kernels.select.largest(magnitudes(x), count(self.fraction, sketch.numel)))
        return torch.zeros_like(x).index_copy_(0, support, x[support])

    def contract(self, spec: Spec) -> Contract:
        """As above; of heavy hitters, nothing unless the vector is its own table: then it is TopK, delta = k/n."""
        if self.fraction is None:
            return super().contract(spec)
        if self.sketch(spec).whole:
            return Contract(delta=count(self.fraction, spec.numel) / spec.numel if spec.numel else 1.0, payload_bits=0)
        return Contract(payload_bits=0)

    @classmethod
    def examples(cls) -> Sequence[Transform]:
        return [
            cls(8, rows=3),
            cls(5, seed=None),
            cls(9, rows=4, seed=None),
            cls(16, rows=1, seed=None, mode="contractive"),
            cls(11, rows=3, fraction=0.1),
            cls(50, fraction=0.2),
        ]
