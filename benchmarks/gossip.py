"""Gossip over torch.distributed: wall time per round against the same work without communication.

torchrun --standalone --nproc-per-node 4 benchmarks/gossip.py --data-dir DIR [--rounds 20]

Every process runs a node of a ring and records the frames that it receives. Then it repeats the same rounds with those
frames from memory. The training, encoding, decoding and bytes are the same, without a network and without waiting. The
ratio is the median of the pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Collection, Iterator

import torch
import torch.distributed as dist

import fewbits as fb
from fewbits import data, models
from fewbits.engines.common.allocator import keep_memory
from fewbits.engines.distributed import FrameExchange, World
from fewbits.engines.distributed.frame_exchange import ReceivedFrame
from fewbits.engines.distributed.peer import Peer
from fewbits.engines.gossip.trainer import Trainer

MAX_BYTES = 2**24
METHODS = {
    "dsgd, float32": fb.learn.DSGD(),
    "malcom, 4 bit, golomb": fb.learn.Malcom(gamma=0.5),
    "choco, 4 bit, rans": fb.learn.Choco(gamma=0.5),
}


class RecordingExchange(FrameExchange):
    """Records the frames that it receives."""

    def __init__(self, world: World) -> None:
        super().__init__(world, MAX_BYTES)
        self.rounds: list[list[ReceivedFrame]] = []

    def receive(self) -> Iterator[ReceivedFrame]:
        self.rounds.append([])
        for found in super().receive():
            self.rounds[-1].append(found)
            yield found


class ReplayExchange(FrameExchange):
    """Returns the recorded frames and sends nothing."""

    def __init__(self, world: World, rounds: list[list[ReceivedFrame]]) -> None:
        super().__init__(world, MAX_BYTES)
        self._rounds = iter(rounds)

    def open(self, round: int, senders: Collection[int]) -> None:
        pass

    def send(self, frame: bytes, receivers: Collection[int]) -> None:
        pass

    def receive(self) -> Iterator[ReceivedFrame]:
        return iter(next(self._rounds))

    def answer(self, senders: Collection[int], requests: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)  # these two as DistributedRun does
    keep_memory()
    with World() as world:
        found = data.load("mnist", options.data_dir, limit=2000)
        if world.rank == 0:
            print(f"{world.size} nodes on a ring, batches of 32, one step a round, {options.rounds} rounds a turn\n")
            print("| method | numbers | frame bytes | s per round | without communication | ratio, median (all) |")
            print("|---|---|---|---|---|---|", flush=True)
        for name, method in METHODS.items():
            compare(world, name, method, found, options)


def compare(
    world: World, name: str, method: fb.learn.GossipMethod, found: data.Data, options: argparse.Namespace
) -> None:
    ratios, walls = [], []
    for pair in range(options.pairs + 1):  # the first is not counted
        recording = RecordingExchange(world)
        wall, model, frame_bytes = turn(world, method, found, recording, options.rounds)
        alone, again, _ = turn(world, method, found, ReplayExchange(world, recording.rounds), options.rounds)
        assert model == again, "the replay is not the same work"
        if pair:
            ratios.append(wall / alone)
            walls.append((wall, alone))
    if world.rank == 0:
        wall, alone = (statistics.median(x) / options.rounds for x in zip(*walls, strict=True))
        shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(
            f"| {name} | 431,080 | {frame_bytes:,} | {wall:.4f} | {alone:.4f} "
            f"| **{statistics.median(ratios):.2f}** ({shown}) |",
            flush=True,
        )


def turn(
    world: World, method: fb.learn.GossipMethod, found: data.Data, exchange: FrameExchange, rounds: int
) -> tuple[float, str, int]:
    """(seconds until the slowest node is through, digest of this node's model, bytes of its last frame)."""
    key, n = fb.Key(0), world.size
    parts = data.partition(found.train_y, "classes:2", n, key.fold("partition"))
    local = fb.LocalSGD(lr=0.05, batch_size=32, steps=1)
    task = fb.simulation.Task(
        models.build("cnn", found, key.fold("model")), found.train_x, found.train_y, parts, local=local
    )
    node = fb.learn.Node(task.model, method, fb.topology.ring(n), world.rank, key)
    trainer, peer, last = Trainer(task, key, node.flat), Peer(node, exchange), b""

    def step() -> bytes:
        nonlocal last
        last, _ = trainer.step(node)
        return last

    dist.barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        peer.round(step)
    dist.barrier()
    took = time.perf_counter() - began
    return took, hashlib.blake2b(node.vectors.x.numpy().tobytes()).hexdigest(), len(last)


if __name__ == "__main__":
    main()
