"""What one client of GPT-2 small sends and receives in a round, of real frames; nothing is trained.

    python papers/intrinsic/gpt2.py [--dim 16384]     # 2 GB of memory, a minute or two

A random gradient is projected once, sent and received. Downlinks come from a real EpochBroadcast whose clients took
part in the last epoch; no byte depends on what A s is, so it is not worked out there.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import fewbits as fb
from fewbits.learn.intrinsic_space import MODES, SENT, IntrinsicSpace
from fewbits.links.epochs import EpochBroadcast
from fewbits.spec import Spec, TreeSpec

WIDTH, BLOCKS, WORDS, PLACES = 768, 12, 50_257, 1024
EPOCH = 100  # rounds with the same matrices; their number changes no byte
AWAY = (0, 1, 2, 5)  # epochs


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """GPT-2 small: 124,439,808 parameters; the output layer shares the words' weights."""
    yield from (("wte", (WORDS, WIDTH)), ("wpe", (PLACES, WIDTH)))
    for i in range(BLOCKS):
        for name, size in (("ln_1", WIDTH), ("ln_2", WIDTH)):
            yield from ((f"h.{i}.{name}.weight", (size,)), (f"h.{i}.{name}.bias", (size,)))
        for name, rows, columns in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            yield from ((f"h.{i}.{name}.weight", (rows, columns)), (f"h.{i}.{name}.bias", (columns,)))
    yield from (("ln_f.weight", (WIDTH,)), ("ln_f.bias", (WIDTH,)))


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=16_384)
    dim = parser.parse_args().dim
    tree = TreeSpec(tuple((name, Spec(shape)) for name, shape in shapes()))
    size = tree.numel
    gradient = torch.randn(size, generator=fb.Key(0).generator())
    dense, up = len(whole(gradient, tree)), len(projected(gradient, dim))
    del gradient
    print(f"D = {size:,}, d = {dim:,}; a dense frame is {dense:,} bytes, a subspace's uplink frame {up:,}\n")
    print("| mode | K | up, bytes | × fewer | D/d | down, bytes | × fewer | by formula | both | by formula |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for space in (IntrinsicSpace(dim, "static"), IntrinsicSpace(dim, "time-varying", epoch=EPOCH), *kinds(dim)):
        down, up_ratio = len(bundle(space, size, 1)), size / dim
        down_ratio = up_ratio / (1 if space.mode == "static" else 2 * space.subspaces)
        both = 2 / (1 / up_ratio + 1 / down_ratio)
        print(
            f"| {space.mode} | {space.subspaces} | {up:,} | {dense / up:,.1f} | {up_ratio:,.1f} | {down:,} "
            f"| {dense / down:,.1f} | {down_ratio:,.1f} | {2 * dense / (up + down):,.1f} | {both:,.1f} |"
        )
    print("\n| down, bytes, for a client that missed | " + " | ".join(f"{m} epochs" for m in AWAY) + " |")
    print("|---|" + "---|" * len(AWAY))
    for mode in MODES[:3]:  # the paper's
        space = IntrinsicSpace(dim, mode, k=4, epoch=EPOCH)
        print(f"| {mode} | " + " | ".join(f"{len(bundle(space, size, m)):,}" for m in AWAY) + " |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def kinds(dim: int) -> list[IntrinsicSpace]:
    """K-subspace for some K."""
    return [IntrinsicSpace(dim, "k-subspace", k, EPOCH) for k in (2, 4, 8)]


def whole(gradient: torch.Tensor, tree: TreeSpec) -> bytes:
    """FedAvg's uplink frame."""
    pieces = torch.split(gradient, [leaf.numel for _, leaf in tree])
    named = {name: x.reshape(leaf.shape) for (name, leaf), x in zip(tree, pieces, strict=True)}
    return fb.Sender(fb.flat(fb.Raw()), tree, fb.Key(1)).send(named)


def projected(gradient: torch.Tensor, dim: int) -> bytes:
    """The frame with A^T g, which arrives as it was sent."""
    s = IntrinsicSpace(dim).matrix(len(gradient), 0, 0).project(gradient)
    spec = TreeSpec(((SENT, Spec((dim,))),))
    frame = fb.Sender(fb.flat(fb.Raw()), spec, fb.Key(1)).send({SENT: s})
    assert torch.equal(fb.Receiver(fb.flat(fb.Raw()), spec).receive(frame)[SENT], s)
    return frame


@dataclass(frozen=True)
class Ended:
    """Subspaces for lengths alone: one epoch ends after each of the first versions."""

    numel: int
    epochs: int  # that end

    def epoch_of(self, version: int) -> int:
        return min(version - 1, self.epochs)

    def expand(self, size: int, epoch: int, s: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1)


def bundle(space: IntrinsicSpace, size: int, away: int) -> bytes:
    """What brings a client up to date that was last here so many epochs ago, where there are epochs."""
    server = EpochBroadcast(Ended(space.numel, 0 if space.mode == "static" else away), Spec((size,)), fb.Key(2))
    server.publish({"theta_e": torch.zeros(size)})
    for _ in range(away + 1):
        server.publish({"s": torch.ones(space.numel)})
    return server.bundle(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
