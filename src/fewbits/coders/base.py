"""A coder: lossless, tensor values <-> bits; the last stage of a chain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


class Coder(ABC):
    """Frozen value; `read(write(v)) == v` bit for bit, for every value that fits the Spec.

    Values come flat and contiguous: integers in their own type within [spec.low, spec.high]; floats as the
    unsigned words of the same width (uint16, uint32, uint64), because NumPy has no bfloat16.
    """

    wire_name: ClassVar[str]  # what frames call the class, whatever Python does; lower case, unique, for ever
    floats: ClassVar[bool] = False  # True: accepts float words too; False: integers with a range only

    @abstractmethod
    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append `values`; LocalError for values that the Spec does not allow.  # (numel,)"""

    @abstractmethod
    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read back exactly what `write` was given; WireError on anything else.  # (numel,)"""

    def payload_bits(self, spec: Spec) -> int | None:
        """Bits of every output that starts at a whole byte, when they do not depend on the values; else None.

        Neither the fill before it (at most 7 bits, when something else ended inside a byte) nor after it is counted.
        """
        return None

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Coder]:
        """Instances that the conformance tests use."""
