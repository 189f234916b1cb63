"""What the paper's full set-up would send: parameters and real frames of VGG16; nothing is learnt here.

One client takes one step on one random image; its two messages are what every client sends and receives in every round,
because float32 and fp16 frames do not depend on the values. Prints the tables of README.md; about a minute.

    python papers/fedpara/vgg16.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import fewbits as fb
from fewbits import models
from fewbits.factor import Factorisation, parameter_table

PAPER = {
    0.1: 1.55,
    0.2: 2.33,
    0.3: 3.31,
    0.4: 4.45,
    0.5: 5.79,
    0.6: 7.33,
    0.7: 9.01,
    0.8: 10.90,
    0.9: 12.92,
}  # millions
SKIP = {"skip": "classifier"}
ROWS = (
    ("FedAvg", "dense", {}, "122"),
    ("FedPAQ, fp16 up", "fedpaq", {"bits": "16"}, "91.4"),
    ("FedPara 0.5", "fedpara", SKIP | {"gamma": "0.5"}, "46.4"),
    ("FedPara 0.5 + FedPAQ", "fedpara+fedpaq", SKIP | {"gamma": "0.5", "bits": "16"}, "34.74"),
    ("FedPara 0.1", "fedpara", SKIP | {"gamma": "0.1"}, ""),
    ("FedPara 0.1 + FedPAQ", "fedpara+fedpaq", SKIP | {"gamma": "0.1", "bits": "16"}, ""),
    ("FedPara 0.1 + top-k 5%, 4 bit", "fedpara+topk", SKIP | {"gamma": "0.1", "down": "dense"}, ""),
)


@dataclass(frozen=True)
class Cifar:
    """As a model sees it."""

    shape: tuple[int, ...] = (3, 32, 32)
    classes: int = 10


def main() -> None:
    """Print both tables as Markdown."""
    print("| gamma | parameters | the paper, M |\n|---|---|---|")
    print(f"| original | {parameter_table(build()).before:,} | 15.25 |")
    for gamma, paper in PAPER.items():
        print(
            f"| {gamma} | {parameter_table(Factorisation('fedpara', gamma, 'classifier')(build())).after:,} | {paper} |"
        )
    print("\n| method | up, bytes | down, bytes | both, MB | the paper | 16 clients, 200 rounds, GB |")
    print("|---|---|---|---|---|---|")
    for name, method, settings, paper in ROWS:
        up, down = frames(fb.methods.build(method, settings))
        both = (up + down) / 1e6
        print(f"| {name} | {up:,} | {down:,} | {both:.2f} | {paper} | {both * 16 * 200 / 1e3:.1f} |")


def build() -> torch.nn.Module:
    """The paper's network for ten classes."""
    return models.build("vgg16", Cifar(), fb.Key(0))


def frames(method: fb.Method) -> tuple[int, int]:
    """Bytes of a client's frame and of the server's to it, in one round."""
    x = fb.Key(0).generator()
    image, label = torch.randn(1, 3, 32, 32, generator=x), torch.zeros(1, dtype=torch.int64)
    task = fb.simulation.Task(build(), image, label, [[0]], local=fb.LocalSGD(lr=0.01, steps=1))
    report = fb.simulation.Federation(task, method, fb.simulation.Schedule(1, processes=1), fb.Key(0)).run().reports[-1]
    return report.up_frame_bytes, report.down_frame_bytes


if __name__ == "__main__":
    main()
