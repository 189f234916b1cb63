"""Loss against bytes when four ranks train one language model: outer steps against data parallel.

A character-level GPT of 1.25M parameters on tinyshakespeare, two windows of 64 characters a rank and step, AdamW. All
cases see the same windows in the same steps. The four ranks are played in one process (fb.distributed.Replicas); every
byte is that of a real frame, counted once for each of its three receivers. Data parallel counts a ring all-reduce of
float32: 2 (R - 1) / R x 4 bytes a number, rank and step.

    python papers/slow-links/run.py --data-dir DIR [--out runs/slow-links]     # goes on where it was stopped
    python papers/slow-links/run.py --table [--out runs/slow-links]            # the table of README.md
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gpt import CONTEXT, GPT
from torch import Tensor, nn
from torch.nn import functional as F

import fewbits as fb
from fewbits.files import write_atomically

RANKS, WINDOWS, STEPS = 4, 2, 9600
WARMUP, DECAY, CLIP = 100, 0.1, 1.0
EVALUATED = 256  # windows of the loss along the way; at the end it is taken over all


@dataclass(frozen=True)
class Case:
    """One way to train."""

    name: str
    method: Any = None  # of OuterStep; None: data parallel
    every: int = 30
    optimizer: Any = None  # None: the method's own; of a codec DiLoCo's
    fragments: int = 1
    lr: float = 2e-3  # AdamW's, the same for all


FOUR_BITS = fb.chain(fb.Quantize(bits=4), fb.Rans())
CASES = [
    Case("data parallel"),
    Case("diloco, float32", fb.Raw()),
    Case("diloco, 4 bit", FOUR_BITS),
    Case("diloco, 4 bit, 3 fragments", FOUR_BITS, fragments=3),
    Case("diloco, top 1.56%, 4 bit", "topk@fraction=0.0156,bits=4", optimizer=fb.ServerSGD(lr=0.7)),
    Case("sparseloco", "sparseloco"),
    Case("sparseloco@lr=4,decay=1", "sparseloco@lr=4,decay=1"),
    Case("noloco, float32", "noloco@bits=32"),
    Case("noloco, 4 bit", "noloco"),
]


def main() -> None:
    """Run every case for every seed that has no result yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="with a folder tinyshakespeare")
    parser.add_argument("--out", type=Path, default=Path("runs/slow-links"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="one case by its name, or all whose names contain this")
    parser.add_argument("--steps", type=int, default=STEPS, help="inner steps, for a shorter look")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of a rank in a step")
    parser.add_argument("--lr", type=float, help="another rate of AdamW, for all cases")
    parser.add_argument("--outer", help="another outer step: lr,momentum; with momentum by Nesterov")
    parser.add_argument("--try", dest="tried", help="a method in place of the cases")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table(options.out)
        return
    if options.data_dir is None:
        parser.error("--data-dir is needed")
    torch.set_num_threads(1)
    cases = [Case(options.tried, options.tried)] if options.tried else chosen(options.only)
    if options.outer:
        lr, momentum = map(float, options.outer.split(","))
        outer = fb.ServerSGD(lr=lr, momentum=momentum, nesterov=momentum > 0)
        cases = [replace(case, optimizer=outer) for case in cases]
    for seed in options.seeds:
        for case in cases:
            once(case, seed, options)


def chosen(words: str) -> list[Case]:
    """The case of this name, or all whose names contain the words."""
    return [case for case in CASES if case.name == words] or [case for case in CASES if words in case.name]


def once(case: Case, seed: int, options: argparse.Namespace) -> None:
    """One run, unless its result is there."""
    options.out.mkdir(parents=True, exist_ok=True)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in case.name)
    suffix = f"-{options.steps}" * (options.steps != STEPS) + f"-w{options.windows}" * (options.windows != WINDOWS)
    suffix += (f"-lr{options.lr:g}" if options.lr else "") + (f"-outer{options.outer}" if options.outer else "")
    path = options.out / f"{words}-seed{seed}{suffix}.json"
    if path.exists():
        return
    if isinstance(case.method, str) and case.method.partition("@")[0] not in (*fb.methods.METHODS, "noloco"):
        print(f"{case.name}: this fewbits has no method {case.method!r}; left out")
        return
    result = play(case, seed, options)
    write_atomically(path, json.dumps(result).encode())
    print(
        f"{case.name:28s} seed {seed}: loss {result['loss']:.4f}, {result['sent'] / 1e6:.3f} MB a rank, "
        f"{result['cpu_seconds']:.0f} CPU seconds",
        flush=True,
    )


def play(case: Case, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    key, lr = fb.Key(seed), options.lr or case.lr
    train, test, characters = load(options.data_dir)
    began = cpu_seconds()
    models = [GPT(characters, key.fold("model")) for _ in range(RANKS if case.method is not None else 1)]
    inner = [
        torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=DECAY, fused=True)
        for model in models
    ]
    numel = sum(p.numel() for p in models[0].parameters())
    replicas = None
    shown = GPT(characters, key.fold("model"))  # what is evaluated
    if case.method is not None:
        streaming = fb.distributed.Streaming(case.fragments)
        replicas = fb.distributed.Replicas(
            models, case.method, case.every, case.optimizer, key.fold("outer"), streaming
        )
    curve, sent, distance = [], 0.0, 0.0
    for step in range(options.steps):
        batches = [windows(train, key.fold("batch", rank, step), options.windows) for rank in range(RANKS)]
        shares = batches if replicas else [torch.cat(batches)]
        for model, optimizer, batch in zip(models, inner, shares, strict=True):
            optimizer.param_groups[0]["lr"] = lr * schedule(step, options.steps)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
        if replicas:
            replicas.step()
        if replicas and noloco(case) and step + 1 == options.steps:
            distance = replicas.average()
        sent = statistics.mean(replicas.sent_bytes) if replicas else 2 * (RANKS - 1) / RANKS * 4 * numel * (step + 1)
        if (step + 1) % (5 * case.every) == 0 or step + 1 == options.steps:
            shown.load_state_dict(replicas.values() if replicas else models[0].state_dict())
            curve.append([step + 1, sent, evaluated(shown, test[:EVALUATED])])
    return {
        "case": case.name,
        "method": str(case.method),
        "seed": seed,
        "parameters": numel,
        "steps": options.steps,
        "every": case.every,
        "lr": lr,
        "windows": options.windows,
        "outer": options.outer,
        "loss": evaluated(shown, test),
        "sent": sent,
        "consensus_distance": distance,
        "curve": curve,
        "cpu_seconds": cpu_seconds() - began,
        "largest_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def noloco(case: Case) -> bool:
    """Whether the models differ until their mean is taken, in float32 and counted, after the last step."""
    return str(case.method).startswith("noloco")


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def schedule(step: int, steps: int) -> float:
    """A linear warm-up, then a cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))


def load(folder: Path) -> tuple[Tensor, Tensor, int]:
    """Nine tenths of the text, and the windows of the last tenth.  # (n,), (windows, CONTEXT + 1)"""
    text = (folder / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text])
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:].unfold(0, CONTEXT + 1, CONTEXT), len(alphabet)


def windows(text: Tensor, key: fb.Key, count: int) -> Tensor:
    """Windows that begin anywhere.  # (count, CONTEXT + 1)"""
    starts = key.below(len(text) - CONTEXT, count)
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts])


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross entropy of the next characters, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def evaluated(model: nn.Module, test: Tensor) -> float:
    """The mean loss over windows."""
    return sum(float(loss_of(model, part)) * len(part) for part in test.split(64)) / len(test)


def table(folder: Path) -> None:
    """Mean and spread over the seeds of complete runs; the loss against data parallel's of the same seed."""
    found = {case.name: runs(folder, case.name) for case in CASES}
    base = found["data parallel"]
    print("| method | seeds | loss | against data parallel | MB a rank sends | times fewer | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, seeds in found.items():
        both = [seed for seed in seeds if seed in base]
        if not both:
            continue
        worse = [100 * (seeds[seed]["loss"] / base[seed]["loss"] - 1) for seed in both]
        fewer = [base[seed]["sent"] / seeds[seed]["sent"] for seed in both]
        sent = [seeds[seed]["sent"] / 1e6 for seed in both]
        print(
            f"| {name} | {len(both)} | {spread([seeds[seed]['loss'] for seed in both], '.4f')} | "
            f"{spread(worse, '+.2f')}% | {statistics.mean(sent):,.3f} | {spread(fewer, ',.0f')} | "
            f"{statistics.mean(seeds[seed]['cpu_seconds'] for seed in both):.0f} |"
        )


def runs(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """The complete runs of a case by seed."""
    return {run["seed"]: run for run in results(folder) if run["case"] == name and run["steps"] == STEPS}


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """All results, those with other settings left out."""
    for path in sorted(folder.glob("*.json")):
        if not set(path.stem.split("-seed")[1].split("-")[1:]):
            yield json.loads(path.read_text())


def spread(values: list[float], form: str) -> str:
    """Mean, and standard deviation where there are several."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.replace('+', ''))}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
