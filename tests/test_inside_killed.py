"""Training inside a subspace: the same bytes on 1, 2 and 3 processes, and after a SIGKILL."""

import multiprocessing
import os
import signal
from functools import cache
from pathlib import Path

import pytest

from digits_task import evidence, federation
from fewbits.methods import build

FORK = multiprocessing.get_context("fork")
ROUNDS = 7
RUNS = {
    "static": ("intrinsic+deadzone", {"mode": "static"}),
    "time-varying": ("intrinsic", {"mode": "time-varying"}),
    "k-subspace": ("intrinsic+topk", {"mode": "k-subspace", "down": "own4"}),
    "growing": ("intrinsic+deadzone", {"mode": "growing", "down": "own1"}),
}


def start(name: str, folder: Path, processes: int = 1):
    """The run of that name, new or continued; epochs end after rounds 2, 4 and 6, checkpoints after 2, 4 and 6, too."""
    method, options = RUNS[name]
    made = build(method, {"dim": "32", "k": "3", "epoch": "2", "local": "inside"} | options)
    return federation(made, folder, rounds=ROUNDS, per_round=4, processes=processes, checkpoint_every=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Evidence of a run that was left alone, in one process."""

    @cache
    def found(name: str):
        run = start(name, tmp_path_factory.mktemp("alone"))
        run.run()
        return evidence(run)

    return found


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_any_number_of_processes_ends_with_the_same_bytes(name, processes, alone, tmp_path):
    run = start(name, tmp_path, processes)
    run.run()
    assert evidence(run) == alone(name)


@pytest.mark.parametrize("round", [3, 4])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_three_processes_that_is_killed_ends_as_if_it_had_been_left_alone(name, round, alone, tmp_path):
    def play() -> None:
        def watch(report) -> None:
            if report.round == round:
                os.kill(os.getpid(), signal.SIGKILL)

        start(name, tmp_path, processes=3).run(watch)

    child = FORK.Process(target=play)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    again = start(name, tmp_path, processes=3)
    assert again.server.round < ROUNDS
    again.run()
    assert evidence(again) == alone(name) and again.notes == []
