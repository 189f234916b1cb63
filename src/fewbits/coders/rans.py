"""Entropy coding with a static model: asymmetric numeral systems over joined bytes (Duda 2014; see kernels/rans.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewbits.coders.base import Coder
from fewbits.coders.blocks import Block, best_block, read_block
from fewbits.coders.fixed import Fixed
from fewbits.coders.joined import digits, join, merge, nothing, offsets, planes, restore, separate, trivial, width_bits
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True)
class Rans(Coder):
    """Near the entropy of joined bytes: five ternary levels or two 4-bit levels in one; floats plane by byte plane.

    One bit says whether fixed width was shorter, so that this coder never loses more than a byte to `Fixed`.
    Independent levels come to 0.1-0.3% over their zero-order entropy from 10^6 on; neighbours that depend on each
    other come below it.
    """

    wire_name: ClassVar[str] = "rans"

    floats = True

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append the shorter of fixed width and the coded planes."""
        if trivial(spec):
            offsets(values, spec)
            return
        blocks = _blocks(values, spec)
        coded = sum(block.bits for block in blocks) < width_bits(spec) * spec.numel
        out.write(int(coded), 1)
        if not coded:
            Fixed().write(values, spec, out)
            return
        for block in blocks:
            block.write(out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read them back; WireError for anything an encoder would not write."""
        if trivial(spec):
            return nothing(spec)
        if not src.read(1):
            return Fixed().read(spec, src)
        if width_bits(spec) > 8:
            count = -(-width_bits(spec) // 8)
            return restore(merge([read_block(spec.numel, 256, src) for _ in range(count)], spec), spec)
        data = read_block(-(-spec.numel // digits(spec.levels)), spec.levels, src)
        return separate(data, spec)

    @classmethod
    def examples(cls) -> Sequence[Rans]:
        """The only one."""
        return (cls(),)


def _blocks(values: np.ndarray, spec: Spec) -> list[Block]:
    if width_bits(spec) > 8:
        return [best_block(plane, 256) for plane in planes(offsets(values, spec), spec)]
    return [best_block(join(values, spec), spec.levels)]
