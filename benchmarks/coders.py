"""Speed and rate of the coders and of two libraries' (constriction, zstd), beside memcpy measured in the same run.

python benchmarks/coders.py [--n 10000000]

Times are processor time of one thread. M/s counts levels; "x memcpy" is the ratio to copying the float32 vector that
they stand for. "Predicted" is the vector source coder's closed form, which needs only how often each level occurs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import constriction
import numpy as np
import zstandard

from fewbits.coders import Auto, Coder, Elias, Fixed, Golomb, Rans, Zstd, predicted_bits
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

CODERS: tuple[Coder, ...] = (Fixed(), Elias("gamma"), Golomb(), Rans(), Zstd(), Auto())


class Contestant(NamedTuple):
    """A way to turn levels into bytes and back."""

    name: str
    encode: Callable[[], bytes]
    decode: Callable[[bytes], np.ndarray]


def inputs(n: int, seed: int = 0) -> dict[str, tuple[np.ndarray, Spec]]:
    """Independent levels of four kinds."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal(n, dtype=np.float32)
    sign = np.where(normal > 0, 1, -1).astype(np.int8)
    gaussian = np.clip(np.rint(normal * np.float32(7 / 4)), -7, 7).astype(np.int8)
    ternary = (np.abs(normal) > 0.8) * sign
    few = (generator.random(n) < 0.05).astype(np.int8)
    size = np.minimum(generator.geometric(0.5, n), 7).astype(np.int8)
    three, four_bits = Spec((n,), "int8", -1, 1), Spec((n,), "int8", -7, 7)
    return {
        "Gaussian, s=7": (gaussian, four_bits),
        "ternary": (ternary, three),
        "95% zeros, ternary": (few * sign, three),
        "95% zeros, s=7": (few * sign * size, four_bits),
    }


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Processor time of the fastest of a few runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times[1:])


def entropy(values: np.ndarray) -> float:
    """Zero-order entropy, in bits per level."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())


def encode(coder: Coder, values: np.ndarray, spec: Spec) -> bytes:
    out = BitWriter()
    coder.write(values, spec, out)
    return out.finish()


def ours(coder: Coder, values: np.ndarray, spec: Spec) -> Contestant:
    return Contestant(
        f"`{coder!r}`", lambda: encode(coder, values, spec), lambda data: coder.read(spec, BitReader(data))
    )


def libraries(values: np.ndarray, spec: Spec) -> list[Contestant]:
    """constriction's coders given the true frequencies (no table is counted), and zstd on one byte per level."""
    assert spec.low is not None and spec.high is not None
    low = spec.low
    symbols = values.astype(np.int32) - low
    counts = np.bincount(symbols, minlength=spec.high - low + 1)
    model = constriction.stream.model.Categorical(counts / len(values), perfect=False)
    stack, queue = constriction.stream.stack, constriction.stream.queue

    def ans() -> bytes:
        coder = stack.AnsCoder()
        coder.encode_reverse(symbols, model)
        return coder.get_compressed().tobytes()

    def ranges() -> bytes:
        coder = queue.RangeEncoder()
        coder.encode(symbols, model)
        return coder.get_compressed().tobytes()

    def back(kind: type) -> Callable[[bytes], np.ndarray]:
        return lambda data: (kind(np.frombuffer(data, np.uint32)).decode(model, len(values)) + low).astype(np.int8)

    found = [Contestant("constriction, ANS", ans, back(stack.AnsCoder))]
    found.append(Contestant("constriction, range", ranges, back(queue.RangeDecoder)))
    for level in (1, 9):
        small = zstandard.ZstdCompressor(level=level)
        large = zstandard.ZstdDecompressor()
        found.append(
            Contestant(
                f"zstd {level}, a byte per level",
                lambda small=small: small.compress(values.tobytes()),
                lambda data, large=large: np.frombuffer(large.decompress(data), np.int8),
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000, help="levels per input")
    n = parser.parse_args().n
    source, target = np.ones(n, np.float32), np.empty(n, np.float32)
    copy = seconds(lambda: np.copyto(target, source))
    print(f"n = {n}, memcpy {4 * n / copy / 1e9:.1f} GB/s of float32")
    for name, (values, spec) in inputs(n).items():
        assert spec.low is not None
        least = entropy(values)
        closed = predicted_bits(np.bincount(values.astype(np.int64) - spec.low))
        print(f"\n{name}: entropy {least:.4f} bits per level; the closed form predicts {closed / 8:,.0f} bytes\n")
        print("| coder | encode M/s | x memcpy | decode M/s | x memcpy | bytes | over entropy |")
        print("|---|---|---|---|---|---|---|")
        for one in [*(ours(coder, values, spec) for coder in CODERS), *libraries(values, spec)]:
            data = one.encode()
            assert np.array_equal(one.decode(data), values), one.name
            up, down = seconds(one.encode), seconds(lambda: one.decode(data))  # noqa: B023 - run at once
            speed = " | ".join(f"{n / t / 1e6:.0f} | {copy / t:.2f}" for t in (up, down))
            print(
                f"| {one.name} | {speed} | {len(data):,} | {100 * (8 * len(data) / n / least - 1):+.2f}% |", flush=True
            )


if __name__ == "__main__":
    main()
