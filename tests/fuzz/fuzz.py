"""Fuzz every place that reads outside bytes: python tests/fuzz/fuzz.py [--seconds 600] [--only subscriber]

The bytes may raise the library's own errors and nothing else, and may not make it allocate more than four times the
frame and the model. An input is (which place, which kind of damage, bytes): libFuzzer mutates all three, from a corpus
of what the ends really send. A crash prints the input; give its file as an argument to see it again.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import tracemalloc
from pathlib import Path
from types import FrameType

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
SOURCE = Path(__file__).parents[2] / "src"
KERNELS = ("fewbits.kernels.",)  # compiled from their bytecode
# What no input comes to: to instrument it takes longer than a short run. `main` looks whether an input does.
UNREACHED = ("analysis", "comparison", "engines.distributed", "engines.gossip", "engines.simulation", "factor")
UNREACHED += ("federated", "learn", "privacy", "replicas", "report", "topology", "trackers", "training")
UNREACHED = tuple(f"fewbits.{name}." for name in UNREACHED)
HARNESS = ("fewbits.testing.",)  # it makes the frames
FILES = [path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")]
MODULES = [".".join(parts[: -1 if parts[-1] == "__init__" else None]) for parts in FILES]
PLAIN = [name for name in MODULES if f"{name}.".startswith((*KERNELS, *UNREACHED, *HARNESS))]
with atheris.instrument_imports(include=["fewbits"], exclude=PLAIN):
    from places import PLACES

SLACK = 128 * 1024  # bytes: Python's objects, whatever the frame
HEADROOM = 512 * 2**20  # bytes of address space beyond what the start took: torch's memory is not traced


def attack(data: bytes) -> None:
    """One input."""
    if len(data) < 3:
        return
    place = PLACES[int.from_bytes(data[:2], "big") % len(PLACES)]
    bound = 4 * (len(data) + place.model_bytes) + SLACK
    for _ in range(2):  # what is imported or compiled at first is no bytes' doing
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        place.attack(data[3:], stamped=bool(data[2] & 1))
        peak = tracemalloc.get_traced_memory()[1] - before
        if peak <= bound:
            return
    raise MemoryError(f"{place.name}: {len(data)} bytes made it allocate {peak}; at most {bound} are fine")


def called(frame: FrameType, event: str, _: object) -> None:
    """A profiler that refuses calls into what is not instrumented."""
    name = f"{frame.f_globals.get('__name__')}."
    if event == "call" and name.startswith(UNREACHED):
        raise AssertionError(f"an input comes to {name[:-1]}: take its package out of UNREACHED")


def limit_memory() -> None:
    """Let an allocation fail that is far too large."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, resource.RLIM_INFINITY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--only", default="", help="part of a place's name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("again", nargs="*", help="inputs to run once")
    options = parser.parse_args()
    PLACES[:] = [place for place in PLACES if options.only in place.name]
    found = tempfile.mkdtemp(prefix="fewbits-fuzz-")  # inputs that were too much
    with tempfile.TemporaryDirectory() as corpus:
        for i, place in enumerate(PLACES):
            for j, (sample, stamped) in enumerate(place.samples()):
                path = Path(corpus) / f"{i}-{j}"
                path.write_bytes(i.to_bytes(2, "big") + bytes([stamped]) + sample)
                attack(path.read_bytes())  # compiles the kernels, before memory is bounded
                sys.setprofile(called)
                attack(path.read_bytes())
                sys.setprofile(None)
        tracemalloc.start()
        limit_memory()
        flags = [
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            "-max_len=4096",
            "-rss_limit_mb=0",
            f"-artifact_prefix={found}/",
        ]
        atheris.Setup([sys.argv[0], *flags, *(options.again or [corpus])], attack)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
