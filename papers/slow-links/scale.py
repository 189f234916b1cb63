"""GPT-2's 124,439,808 parameters through every method: bytes both ways, seconds of each step, memory.

    python papers/slow-links/scale.py [--width 768] [--only METHOD ...]    # 13 GB of memory, about half an hour

The weights are random. In each of three rounds a server sends its bundle, a client moves its model as training would,
replies with a frame, and the server takes it and steps. The move of a round is a fixed direction with noise, so that
methods that look back or predict have something to find. The figures are those of the last round, when states have
settled; first contact has a column of its own. Seconds are processor time of one thread, of whole calls: `bundle`,
`receive`, `reply`, `accept`, `step`. Each method runs in a process of its own. Its memory is the most that this process
had, with two models: the server's and the client's.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from recode import BLOCKS, PLACES, WIDTH, WORDS, apart_json
from torch import nn

import fewbits as fb

METHODS = [
    "dense",
    "fedpaq@bits=4",
    "topk@fraction=0.01",
    "sparseloco",
    "signsgd",
    "deadzone",
    "eden",
    "demo",
    "powersgd",
    "lbgm",
    "lbgm+topk@fraction=0.01",
    "predict",
    "intrinsic+deadzone@dim=4096",
    "intrinsic@dim=4096,mode=time-varying",
    "fedpara",
    "fedpara+topk@fraction=0.01",
]
ROUNDS, STEP = 3, 0.01


class GPT2(nn.Module):
    """The layers of GPT-2 small; the output layer shares the words' weights. Nothing is computed with them here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wte, self.wpe, self.ln_f = nn.Embedding(WORDS, width), nn.Embedding(PLACES, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "proj": nn.Linear(width, width),
                    "ln_2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(BLOCKS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def made(width: int) -> nn.Module:
    """The same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2(width)


def play(method: str, width: int) -> dict[str, float]:
    """One client's three rounds."""
    seconds: dict[str, float] = {}
    began = time.process_time()

    def took(name: str) -> None:
        nonlocal began
        seconds[name] = time.process_time() - began
        began = time.process_time()

    server = fb.Server(made(width), method, fb.Key(1))
    client = fb.Client(made(width), method, fb.Key(2))
    took("build")
    first = up = down = 0
    for round in range(1, ROUNDS + 1):
        server.expect([0])
        began = time.process_time()
        bundle = server.bundle(0)
        took("bundle")
        client.receive(bundle)
        took("receive")
        move(client.flat.module, round)
        began = time.process_time()
        frame = client.reply()
        took("reply")
        if not server.accept(0, frame, weight=1):
            raise RuntimeError(f"{method}: {server.reasons}")
        took("accept")
        server.step()
        took("step")
        up, down = len(frame), len(bundle)
        first = first or up + down
    sent = sum(x.numel() for _, x in client.flat.module.named_parameters() if x.requires_grad)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"trained": sent, "first": first, "up": up, "down": down, "memory": memory, **seconds}


@torch.no_grad()
def move(module: nn.Module, round: int) -> None:
    """What training would change: the same direction in every round, and noise of three tenths of its length."""
    for i, p in enumerate(x for x in module.parameters() if x.requires_grad):
        fixed, noise = (fb.Key(3).fold("move", i, part).generator() for part in (0, round))
        p += STEP * (torch.randn(p.shape, generator=fixed) + 0.3 * torch.randn(p.shape, generator=noise))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=WIDTH, help="of GPT-2; smaller: a quick look")
    parser.add_argument("--only", nargs="+", default=METHODS, metavar="METHOD")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("bundle", "receive", "reply", "accept", "step")
    heads = (
        "method",
        "numbers trained",
        "up, MB",
        "down, MB",
        "first contact, MB",
        *(f"{name}, s" for name in columns),
    )
    print(f"| {' | '.join(heads)} | memory, GB |")
    print("|---" * (len(heads) + 1) + "|")
    for method in options.only:
        found = apart_json(lambda method=method: play(method, options.width))
        sizes = " | ".join(f"{found[name] / 1e6:,.3f}" for name in ("up", "down", "first"))
        times = " | ".join(f"{found[name]:.2f}" for name in columns)
        print(f"| `{method}` | {found['trained']:,} | {sizes} | {times} | {found['memory'] / 1e9:.1f} |", flush=True)


if __name__ == "__main__":
    main()
