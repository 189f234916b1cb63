"""zstandard over joined bytes: the fast choice, and the one that finds repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewbits.checks import check_whole
from fewbits.coders.base import Coder
from fewbits.coders.elias import read_delta, write_delta
from fewbits.coders.fixed import Fixed
from fewbits.coders.joined import digits, join, merge, nothing, offsets, planes, restore, separate, trivial, width_bits
from fewbits.errors import WireError
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


@dataclass(frozen=True)
class Zstd(Coder):
    """Compress joined bytes by zstandard: fast, and the one that finds repeats.

    One zstandard frame without magic, size and checksum; or `Fixed`, where that is shorter (one bit says which).

    Args:
        level: 1..19; higher: slower, a little smaller.

    Raises:
        LocalError: level is outside 1..19; at encoding, a value is none of the levels.

    Example:
        >>> import torch
        >>> from fewbits import Key, Raw, Sender, Spec, Zstd, chain
        >>> x = torch.arange(4.0).repeat(1000)
        >>> len(Sender(chain(Raw(), Zstd()), Spec.of(x), Key(0)).send(x)) < 200  # 16,000 bytes of floats
        True

    Source: Collet and Kucherawy, RFC 8878.
    """

    wire_name: ClassVar[str] = "zstd"

    level: int = 1

    floats = True

    def __post_init__(self) -> None:
        check_whole("Zstd: level", self.level, 1, 19, numpy=True)

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
        """Append the shorter of fixed width and the compressed planes."""
        if trivial(spec):
            offsets(values, spec)
            return
        packed = _compress(_joined(values, spec), self.level)
        small = 8 * len(packed) + 48 < width_bits(spec) * spec.numel
        out.write(int(small), 1)
        if small:
            write_delta(len(packed), out)
            out.write_bytes(packed)
        else:
            Fixed().write(values, spec, out)

    def read(self, spec: Spec, src: BitReader) -> np.ndarray:
        """Read them back; memory is bounded by numel before anything is decompressed."""
        if trivial(spec):
            return nothing(spec)
        if not src.read(1):
            return Fixed().read(spec, src)
        packed = src.read_bytes(read_delta(src, width_bits(spec) * spec.numel))
        if width_bits(spec) > 8:
            count = -(-width_bits(spec) // 8)
            data = _decompress(packed.tobytes(), count * spec.numel)
            return restore(merge(list(data.reshape(count, spec.numel)), spec), spec)
        data = _decompress(packed.tobytes(), -(-spec.numel // digits(spec.levels)))
        return separate(data, spec)

    @classmethod
    def examples(cls) -> Sequence[Zstd]:
        return (cls(), cls(9))


def _joined(values: np.ndarray, spec: Spec) -> np.ndarray:
    return np.concatenate(planes(offsets(values, spec), spec)) if width_bits(spec) > 8 else join(values, spec)


def _compress(data: np.ndarray, level: int) -> bytes:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0, write_dict_id=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(np.ascontiguousarray(data).data)


def _decompress(packed: bytes, size: int) -> np.ndarray:
    import zstandard

    kind = zstandard.FORMAT_ZSTD1_MAGICLESS
    try:
        stated = zstandard.get_frame_parameters(packed, format=kind).content_size
        if stated not in (zstandard.CONTENTSIZE_UNKNOWN, size):  # else it would allocate what the frame says
            raise WireError(f"zstandard frame states {stated} bytes; {size} were expected")
        decompressor = zstandard.ZstdDecompressor(format=kind)
        data = decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"zstandard frame is damaged: {error}") from None
    if len(data) != size:
        raise WireError(f"zstandard frame holds {len(data)} bytes; {size} were expected")
    return np.frombuffer(data, np.uint8)
