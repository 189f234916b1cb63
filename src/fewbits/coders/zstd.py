"""Zstd: zstandard over joined bytes; fast, and finds repeats."""

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

# Levels 1 and 2 take every repeat that they find, also those of four bytes that come by chance and cost more than the
# bytes themselves. With few places to look they find runs and long repeats alone, and are twice as fast.
FEW_MATCHES = {"hash_log": 6, "min_match": 7}


@dataclass(frozen=True)
class Zstd(Coder):
    """Compress joined bytes with zstandard.

    The payload is one zstandard frame without magic, size and checksum. One bit says whether fixed width was shorter.
    The decoder bounds its memory by the Spec before it decompresses.

    Args:
        level: compression level, 1..19; larger: slower, slightly smaller.

    Raises:
        LocalError: the level is out of range.

    Example:
        >>> import numpy as np
        >>> spec, out = Spec((4,), "int8", -7, 7), BitWriter()
        >>> Zstd().write(np.array([0, -1, 2, 0], np.int8), spec, out)
        >>> out.bits
        24
        >>> Zstd().read(spec, BitReader(out.finish())).tolist()
        [0, -1, 2, 0]

    References:
        Collet and Kucherawy, Zstandard Compression and the application/zstd Media Type, RFC 8878, 2021.
    """

    wire_name: ClassVar[str] = "zstd"

    level: int = 1  # 1..19; larger: slower, slightly smaller

    floats = True

    def __post_init__(self) -> None:
        check_whole("Zstd: level", self.level, 1, 19, numpy=True)

    def write(self, values: np.ndarray, spec: Spec, out: BitWriter) -> None:
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
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
        **(FEW_MATCHES if level <= 2 else {}),
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(np.ascontiguousarray(data).data)


def _decompress(packed: bytes, size: int) -> np.ndarray:
    import zstandard

    kind = zstandard.FORMAT_ZSTD1_MAGICLESS
    try:
        stated = zstandard.get_frame_parameters(packed, format=kind).content_size
        if stated not in (
            zstandard.CONTENTSIZE_UNKNOWN,
            size,
        ):  # a frame could state a size that exhausts memory
            raise WireError(f"zstandard frame states {stated} bytes; {size} were expected")
        decompressor = zstandard.ZstdDecompressor(format=kind)
        data = decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"zstandard frame is damaged: {error}") from None
    if len(data) != size:
        raise WireError(f"zstandard frame holds {len(data)} bytes; {size} were expected")
    return np.frombuffer(data, np.uint8)
