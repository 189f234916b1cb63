"""Loss against bytes and seconds when four ranks train one language model.

A character-level GPT of 1.25M parameters on tinyshakespeare, two windows of 64 characters a rank and step, AdamW. All
cases see the same windows in the same steps. The four ranks are played in one process (fb.distributed.Replicas; nodes
of a ring for gossip). Every byte is that of a real frame, counted once for each of its receivers. Data parallel counts
a ring all-reduce of float32: 2 (R - 1) / R x 4 bytes a number, rank and step. Seconds on a line are computed from
measured bytes, inner steps and codecs (line_seconds.py).

    python papers/slow-links/run.py --data-dir DIR [--out runs/slow-links]     # goes on where it was stopped
    python papers/slow-links/run.py --table [--steps N] [--out runs/slow-links]    # the tables of README.md
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from cases import CASES, RANKS, STEPS, WINDOWS, Case, SignStep, schedule
from gpt import GPT, SIZES
from table import print_tables, suffix_of
from text import evaluated, load, loss_of, windows
from torch import nn
from ways import WAYS, optimizer_of

import fewbits as fb
from fewbits.files import write_atomically

DECAY, CLIP = 0.1, 1.0
EVALUATED = 128  # windows of the loss along the way; at the end it is taken over all
POINTS = 12  # of the curve, and two early ones


def main() -> None:
    """Run every case for every seed that has no result yet, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="with a folder tinyshakespeare")
    parser.add_argument("--out", type=Path, default=Path("runs/slow-links"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="cases by their names, or all whose names contain this")
    parser.add_argument("--model", choices=list(SIZES), default="gpt", help="small: a tenth of the parameters")
    parser.add_argument("--steps", type=int, default=STEPS, help="inner steps")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of a rank in a step")
    parser.add_argument("--lr", type=float, help="another rate of AdamW, for all cases")
    parser.add_argument("--outer", help="another outer step: lr,momentum; with momentum by Nesterov")
    parser.add_argument("--try", dest="tried", help="a method in place of the cases")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_tables(options.out, options.model, options.steps)
        return
    if options.data_dir is None:
        parser.error("--data-dir is needed")
    cases = (
        [Case(options.tried, options.tried)]
        if options.tried
        else [case for words in options.only for case in chosen(words)]
    )
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
    """One run in a process of its own, unless its result is there."""
    options.out.mkdir(parents=True, exist_ok=True)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in case.name)
    suffix = suffix_of(options.model, options.steps) + f"-w{options.windows}" * (options.windows != WINDOWS)
    suffix += (f"-lr{options.lr:g}" if options.lr else "") + (f"-outer{options.outer}" if options.outer else "")
    path = options.out / f"{words}-seed{seed}{suffix}.json"
    if path.exists():
        return
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        result = pool.submit(play, case, seed, options).result()
    write_atomically(path, json.dumps(result).encode())
    print(
        f"{case.name:28s} seed {seed}: loss {result['loss']:.4f}, {result['sent'] / 1e6:.3f} MB a rank, "
        f"{result['cpu_seconds']:.0f} CPU seconds",
        flush=True,
    )


def play(case: Case, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    torch.set_num_threads(1)
    key, lr = fb.Key(seed), options.lr or case.lr
    train, test, characters = load(options.data_dir)
    if isinstance(case.optimizer, SignStep):
        case = replace(case, optimizer=replace(case.optimizer, steps=options.steps))
    way = WAYS[case.way](case, GPT(characters, key.fold("model"), options.model), key)
    inner = [optimizer_of(case, model, lr, DECAY) for model in way.models]
    curve, computed = [], 0.0
    for step in range(options.steps):
        batches = [windows(train, key.fold("batch", rank, step), options.windows) for rank in range(RANKS)]
        shares = batches if len(way.models) > 1 else [torch.cat(batches)]
        began = time.process_time()
        for model, optimizer, batch in zip(way.models, inner, shares, strict=True):
            if not case.gradients:
                optimizer.param_groups[0]["lr"] = lr * schedule(step, options.steps)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
        computed += time.process_time() - began
        way.exchange()
        if step + 1 == options.steps:
            way.finish()
        if shown(step + 1, options.steps):
            way.shown.load_state_dict(way.values())
            curve.append([step + 1, way.exchanges, way.sent, evaluated(way.shown, test[:EVALUATED])])
    return {
        "case": case.name,
        "method": str(way.case.method),
        "optimizer": str(case.optimizer),
        "seed": seed,
        "model": options.model,
        "parameters": way.numel,
        "steps": options.steps,
        "every": case.every,
        "lr": lr,
        "windows": options.windows,
        "outer": options.outer,
        "loss": evaluated(way.shown, test),
        "sent": way.sent,
        "exchanges": way.exchanges,
        "silent": way.silent,
        "messages": way.messages,
        "curve": curve,
        "step_seconds": computed / options.steps / len(way.models),
        "own_step": bool(case.inside or case.gradients or len(way.models) == 1),
        "cpu_seconds": cpu_seconds(),
        "state_bytes": way.state_bytes(),
        "largest_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "codec_seconds": way.codec_seconds(),
    }


def shown(step: int, steps: int) -> bool:
    """Whether the curve has a point after this step."""
    return step in (60, 150) or step * POINTS // steps > (step - 1) * POINTS // steps


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
