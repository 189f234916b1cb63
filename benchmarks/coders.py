"""Speed and rate of the coders, beside memcpy measured in the same run.

python benchmarks/coders.py [--n 10000000]

GB/s count the float32 vector that the levels stand for (4 bytes per level); "x memcpy" is the ratio to copying it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from fewbits.coders import Auto, Coder, Elias, Fixed, Golomb, Rans, Zstd
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

CODERS: tuple[Coder, ...] = (Fixed(), Elias("gamma"), Golomb(), Rans(), Zstd(), Auto())


def inputs(n: int, seed: int = 0) -> dict[str, tuple[np.ndarray, Spec]]:
    """Independent levels of three kinds."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal(n, dtype=np.float32)
    gaussian = np.clip(np.rint(normal * np.float32(7 / 4)), -7, 7).astype(np.int8)
    ternary = (np.abs(normal) > 0.8).astype(np.int8) * np.where(normal > 0, 1, -1).astype(np.int8)
    sparse = np.where(generator.random(n) < 0.05, gaussian, 0).astype(np.int8)
    four_bits = Spec((n,), "int8", -7, 7)
    return {
        "Gaussian, s=7": (gaussian, four_bits),
        "ternary": (ternary, Spec((n,), "int8", -1, 1)),
        "95% zeros": (sparse, four_bits),
    }


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def entropy(values: np.ndarray) -> float:
    """Zero-order entropy, in bits per level."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())


def encode(coder: Coder, values: np.ndarray, spec: Spec) -> bytes:
    out = BitWriter()
    coder.write(values, spec, out)
    return out.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000, help="levels per input")
    n = parser.parse_args().n
    source, target = np.ones(n, np.float32), np.empty(n, np.float32)
    copy = seconds(lambda: np.copyto(target, source))
    print(f"n = {n}, memcpy {4 * n / copy / 1e9:.1f} GB/s of float32")
    print("| levels | coder | encode GB/s | x memcpy | decode GB/s | x memcpy | bits per level | over H0 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (values, spec) in inputs(n).items():
        for coder in CODERS:
            data = encode(coder, values, spec)
            up = seconds(lambda: encode(coder, values, spec))  # noqa: B023 - run at once
            down = seconds(lambda: coder.read(spec, BitReader(data)))  # noqa: B023
            bits = 8 * len(data) / n
            speed = " | ".join(f"{4 * n / t / 1e9:.2f} | {copy / t:.2f}" for t in (up, down))
            print(f"| {name} | {coder!r} | {speed} | {bits:.3f} | {100 * (bits / entropy(values) - 1):+.2f}% |")


if __name__ == "__main__":
    main()
