"""Kernels are compiled before the clock and before workers fork, once, and what is compiled is all that a run needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numba.core.dispatcher import Dispatcher

import fewbits as fb
from fewbits import kernels
from fewbits.engines.gossip.run import GossipRun
from fewbits.engines.simulation import Federation, Schedule, Task
from fewbits.engines.simulation import federation as simulation
from fewbits.federated.compile_kernels import compile_kernels
from fewbits.methods import named
from fewbits.methods.gossip import gossip_method

SOURCE = Path(fb.__file__).parent
LOOPS = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from fewbits import kernels
x = np.ones(3, np.float32)
print(kernels.dots.products(x, x), kernels.dots.__file__)
"""


def dispatchers():
    for name in kernels.__all__:
        module = getattr(kernels, name)
        for found in vars(module).values():
            if isinstance(found, Dispatcher) and found.__module__ == module.__name__:
                yield name, found


def loaded():
    """(kernel, types) of all that is compiled or loaded in this process."""
    return {(name, each.__name__, str(types)) for name, each in dispatchers() for types in each.signatures}


def forget():
    """As in a new process; what is on disk stays."""
    for _, each in dispatchers():
        each._reset_overloads()
        each.overloads.clear()


def task(hidden=128):
    torch.manual_seed(0)
    data = [(torch.randn(8, 64), torch.arange(8) % 10) for _ in range(4)]
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
    return Task.of(model, data, data[0], fb.LocalSGD(lr=0.1, batch_size=0), None)


@pytest.mark.parametrize(
    ("method", "hidden"),
    [
        *(("dense", 128), ("topk", 128), ("lbgm+topk", 1500), ("predict", 128), ("randk@bits=8", 1500)),
        *(("fetchsgd", 128), ("signsgd", 128), ("fedpara+lbgm+topk@down=own4", 128), ("dp+topk", 128)),
        *(("intrinsic@mode=k-subspace", 128), ("topk@down=sparse,bits=32", 1500), ("masked", 128)),
    ],
)
def test_a_run_needs_no_kernel_that_was_not_compiled_before_it(method, hidden, monkeypatch):
    forget()
    before = []

    def counted(exchange):
        compile_kernels(exchange)
        before.append(loaded())

    monkeypatch.setattr(simulation, "compile_kernels", counted)
    Federation(task(hidden), named(method), Schedule(3, per_round=3, processes=1), fb.Key(0)).run()
    assert loaded() == before[0]
    assert method != "dense" or not loaded(), "nothing is compiled for those who need no kernel"


@pytest.mark.parametrize("method", ["dsgd", "choco", "malcom", "deepsqueeze"])
def test_nodes_without_a_server_need_none_either(method):
    run = GossipRun(task(), gossip_method(method), fb.topology.ring(4), Schedule(3, processes=1), fb.Key(0))
    forget()
    run.setup.compile_kernels()
    before = loaded()
    run.run()
    assert loaded() == before


def test_compilation_changes_no_byte_and_no_state():
    frames = []
    for times in (0, 3):
        run = Federation(task(), named("lbgm+topk"), Schedule(3, processes=1), fb.Key(0))
        for _ in range(times):
            compile_kernels(run.server.exchange)
        run.tap = lambda *travelled: frames.append(travelled)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        compile_kernels(run.server.exchange)
        assert torch.equal(state, torch.get_rng_state()), "nobody's generator moves"
        run.run()
    half = len(frames) // 2
    assert frames[:half] == frames[half:] and half == 24


@pytest.mark.parametrize("writable", [False, True])
def test_a_copy_that_cannot_be_written_gets_a_cache_or_one_warning(writable, tmp_path):
    """A file in the cache's place stands for a folder that cannot be written, for root, too."""
    shutil.copytree(SOURCE / "kernels", tmp_path / "fewbits" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "errors.py", tmp_path / "fewbits")
    (tmp_path / "fewbits" / "__init__.py").write_text("")  # without torch, it starts soon
    (tmp_path / "fewbits" / "kernels" / "__pycache__").write_text("")
    home = tmp_path / "home" if writable else Path("/dev/null")
    environment = {"HOME": str(home), "PATH": "/usr/bin", "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    lines = []
    for _ in range(1 + writable):
        command = [sys.executable, "-c", LOOPS, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("(3.0, 3.0, 3.0)") and str(tmp_path) in done.stdout
        lines.append(done.stderr.splitlines())
    stored = "compiled kernels cannot be stored"
    assert sum(stored in line for line in lines[0]) == (not writable)
    assert sum("compiling kernels once" in line for line in lines[0]) == 1
    assert not writable or lines[1] == [], "the second start loads them"
    assert list(tmp_path.glob("fewbits-kernels-*")) == [], "what was stored for one process goes with it"
