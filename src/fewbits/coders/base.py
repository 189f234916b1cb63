"""Coder: the lossless last stage of a chain, between tensor values and bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


class Coder(ABC):
    """Base of all coders: a frozen value with ``read(write(v)) == v`` bit for bit.

    Values are flat and contiguous. Integers have their own type and lie in [spec.low, spec.high]. Floats are unsigned
    words of the same width (uint16, uint32, uint64), because NumPy has no bfloat16.

    Example:
        >>> import fewbits as fb
        >>> spec, out = Spec((4,), "int8", -7, 7), BitWriter()
        >>> fb.Fixed().write(np.array([0, -1, 2, 0], np.int8), spec, out)
        >>> fb.Fixed().read(spec, BitReader(out.finish())).tolist()
        [0, -1, 2, 0]
    """

    wire_name: ClassVar[str]  # what frames call the class, whatever Python does; lower case, unique, for ever
    floats: ClassVar[bool] = False  # True: accepts float words too; False: integers with a range only

    @abstractmethod
    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append `values`; LocalError for values outside the Spec.  # (numel,)"""

    @abstractmethod
    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read the values that `write` was given; WireError for invalid bytes.  # (numel,)"""

    def payload_bits(self, spec: Spec) -> int | None:
        """Return the bits of every output, or None when they depend on the values.

        Zero fill to a whole byte, before or after the output, is not counted.
        """
        return None

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Coder]:
        """Instances for the conformance tests."""
