"""Bytes that bring a client back to the model after it was away, for every downlink.

    python benchmarks/downlink.py [--rounds 115]

Real runs on digits: 20 clients with three digits each, 5 per round, uplink top-k. In each of the last ten rounds, what
a client would get that was away for so many rounds: `len` of the bundle, which is really encoded. Under `own4` and
`own8` it was served in three rounds in a row before it went away, so that it may have left the public model.
Figures are means over those rounds, and mean and range over seeds 0, 1, 2.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import load_data, prepare
from fewbits.links.bundle import wrap
from fewbits.links.personal_updates import HeldState
from fewbits.methods.downlink import DOWNLINKS

AWAY = (1, 2, 5, 20, 100)  # rounds
LAST = 10  # rounds that are looked at
SEEDS = (0, 1, 2)


def main() -> None:
    """Print one row per downlink."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=115)
    rounds = parser.parse_args().rounds
    columns = [f"away {m}" for m in AWAY]
    print(f"| downlink | {' | '.join(columns)} | new | whole run, down | accuracy |")
    print("|---" * (len(columns) + 4) + "|")
    for name in DOWNLINKS:
        found = [played(name, seed, rounds) for seed in SEEDS]
        print(f"| `{name}` | " + " | ".join(spread([row[i] for row in found]) for i in range(len(found[0]))) + " |")


def spread(values: list[float]) -> str:
    """Mean, and the range over seeds."""
    digits = 3 if max(values) < 1 else 0
    mean, low, high = (f"{x:,.{digits}f}" for x in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low}-{high})"


def played(name: str, seed: int, rounds: int) -> list[float]:
    """Mean bytes by absence, and at first contact; the bytes of the run, its accuracy."""
    config = RunConfig(
        method="topk",
        settings={"down": name},
        clients=20,
        per_round=5,
        split="classes:3",
        rounds=rounds,
        seed=seed,
        evaluate_every=rounds,
    )
    prepared = prepare(config, load_data(config))
    recipes: list[list[HeldState]] = []  # of clients by the version at which they were met first, as they are now
    sizes: dict[int | None, list[int]] = {m: [] for m in (*AWAY, None)}
    with tempfile.TemporaryDirectory() as folder:
        run = prepared.federation(Path(folder) / "run")
        for report in run:
            broadcast = run.server.broadcast
            held = [broadcast.catch_up(HeldState(broadcast.version - 1)).after]
            for before in recipes[-2:]:
                before.append(broadcast.catch_up(before[-1]).after)
            recipes.append(held)
            if report.round > rounds - LAST:
                for away in AWAY:
                    gone = recipes[-3 - away][-1] if len(recipes) > away + 2 else HeldState()
                    size = len(wrap(broadcast.catch_up(gone).frames, 0))
                    sizes[away].append(size)
                sizes[None].append(len(wrap(broadcast.catch_up(HeldState()).frames, 0)))
        last = run.reports[-1]
    return [*(statistics.mean(found) for found in sizes.values()), last.down_frame_bytes, last.accuracy or 0.0]


if __name__ == "__main__":
    main()
