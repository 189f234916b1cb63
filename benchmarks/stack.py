"""Whole stacks and whole frames: float32 to bytes and back, frame sizes, import time.

    python benchmarks/stack.py [--n 10000000]

All figures of a table are measured in one run on one thread; speeds are given as shares of memcpy of the same vector.
Freed memory is kept, as the engine's processes keep it: else a third of an encoding is page faults.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import fewbits as fb
from fewbits.codecs import Chain, Keys
from fewbits.engines.common.allocator import keep_memory
from fewbits.wire import BitReader, BitWriter

REPEATS = 7


def seconds(work: Callable[[], object]) -> float:
    """Median wall seconds, after one warm-up."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def links(n: int) -> None:
    """`Sender.send` and `Receiver.receive` in a process as it is: what a user of a link pays."""
    x = torch.randn(n, generator=fb.Key(0).generator())
    y, spec = torch.empty_like(x), fb.Spec.of(x)
    copy, top = seconds(lambda: y.copy_(x)), seconds(lambda: torch.topk(x.abs(), n // 100))
    print(f"\nSender.send and Receiver.receive, n = {n:,}; memcpy {4 * n / copy / 1e9:.1f} GB/s\n")
    print("| codec | send, ms | of memcpy | receive, ms | of memcpy |\n|---|---|---|---|---|")
    sparse = fb.chain(fb.TopK(0.01), fb.Quantize(bits=8), fb.Rans())
    chunked = fb.chain(fb.TopK(1 / 64, chunk=4096), fb.Sign(sizes=2), fb.Rans())  # SparseLoCo's
    for codec in (
        fb.chain(fb.Quantize(bits=4), fb.Rans()),
        fb.chain(fb.Quantize(bits=4), fb.Zstd()),
        fb.chain(fb.Sign()),
        sparse,
        fb.ErrorFeedback(sparse),
        chunked,
        fb.ErrorFeedback(chunked, decay=0.95),
        fb.chain(fb.Raw()),
    ):
        sender, receiver = fb.Sender(codec, spec, fb.Key(0)), fb.Receiver(codec, spec)
        start = receiver.dump()

        def send(sender: fb.Sender = sender) -> bytes:
            if sender.pending:
                sender.rollback()
            return sender.send(x)

        def receive(receiver: fb.Receiver = receiver, start: bytes = start, frame: bytes = send()) -> torch.Tensor:
            receiver.load(start)
            return receiver.receive(frame)

        # memcpy beside each: on shared machines it moves from minute to minute
        copy, there, back = seconds(lambda: y.copy_(x)), seconds(send), seconds(receive)
        print(
            f"| `{codec!r}` | {1e3 * there:.1f} | **{copy / there:.2f}** | {1e3 * back:.1f} | **{copy / back:.2f}** |",
            flush=True,
        )
        if codec is sparse:
            print(f"| torch.topk alone | {1e3 * top:.0f} | {top / there:.1f} times as long | | |")


def coding(n: int) -> None:
    """Split, code, decode and join: everything between a float32 vector and its payload."""
    keep_memory()
    key = fb.Key(0)
    x = torch.randn(n, generator=key.generator())
    y = torch.empty_like(x)
    copy = seconds(lambda: y.copy_(x))
    print(f"\nfloat32 to payload and back, n = {n:,}; memcpy {4 * n / copy / 1e9:.1f} GB/s\n")
    print("| stack | encode, ms | of memcpy | decode, ms | of memcpy | bits per number |\n|---|---|---|---|---|---|")
    stacks = [
        fb.chain(fb.Quantize(bits=4), fb.Rans()),
        fb.chain(fb.Quantize(bits=4), fb.Zstd()),
        fb.chain(fb.Quantize(bits=2), fb.Rans()),
        fb.chain(fb.Sign()),
        fb.chain(fb.TopK(0.01), fb.Quantize(bits=8), fb.Rans()),
    ]
    for stack in stacks:
        payload = encode(stack, x, key)
        there, back = (
            seconds(lambda s=stack: encode(s, x, key)),
            seconds(lambda s=stack, p=payload: decode(s, x, p, key)),
        )
        print(
            f"| `{stack!r}` | {1e3 * there:.1f} | **{copy / there:.2f}** | {1e3 * back:.1f} | **{copy / back:.2f}** "
            f"| {8 * len(payload) / n:.3f} |",
            flush=True,
        )


def encode(stack: Chain, x: torch.Tensor, key: fb.Key) -> bytes:
    """x -> payload."""
    spec, out = fb.Spec(tuple(x.shape)), BitWriter()
    message, _ = stack.encode(x, spec, (), (), Keys(key, key))
    stack.write(message, spec, out)
    return out.finish()


def decode(stack: Chain, x: torch.Tensor, payload: bytes, key: fb.Key) -> torch.Tensor:
    """payload -> x_hat."""
    spec = fb.Spec(tuple(x.shape))
    return stack.decode(stack.read(spec, BitReader(payload), key), spec, ())[0]


def frames() -> None:
    """Bytes of frames of a model with 431,080 parameters."""
    x = torch.randn(431_080, generator=fb.Key(1).generator())
    print("\nFrames of a model of 431,080 parameters: first and second round of the same update, bytes\n")
    print("| codec | first | second |\n|---|---|---|")
    for codec in (
        fb.LookBack(fb.Raw(), threshold=0.2),
        fb.LookBack(fb.chain(fb.TopK(0.05), fb.Quantize(bits=4), fb.Rans()), threshold=0.2),
        fb.Predict(fb.chain(fb.TopK(0.05), fb.Quantize(bits=4), fb.Rans()), silent=0.99),
    ):
        sender = fb.Sender(codec, fb.Spec.of(x), fb.Key(0))
        sizes = []
        for _ in range(2):
            sizes.append(len(sender.send(x)))
            sender.commit()
        print(f"| `{codec!r}` | {sizes[0]:,} | **{sizes[1]:,}** |")


def imports() -> None:
    """`import fewbits` beyond `import torch`, each in fresh interpreters."""

    def fresh(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    torch_alone, both = fresh("import torch"), fresh("import torch, fewbits")
    print(
        f"\nImport: torch {torch_alone:.2f} s, with fewbits {both:.2f} s: **{both - torch_alone:.2f} s** beyond torch"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    links(options.n)
    coding(options.n)
    frames()
    imports()


if __name__ == "__main__":
    main()
