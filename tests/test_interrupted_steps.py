"""An outer step that ends half-way: it is said until states are loaded, or the next call makes up for it."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits import replicas as package
from fewbits.distributed import OuterStep, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.replicas.tensors import ReplicaTensors
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

FOLDER = str(Path(package.__file__).parent)
EVERY = 29  # lines; one takes minutes
SAID = "an outer step was interrupted half-way; load the last states on all ranks"
KINDS: list[tuple[int, str, int, Streaming]] = [
    (2, "fedpaq", 1, Streaming()),
    (2, "dense", 2, Streaming(2)),
    (2, "fedpaq", 4, Streaming(2, 1)),
    (3, "dense", 1, Streaming()),
    (3, "noloco", 1, Streaming()),
]


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def begin(size: int, method: str, every: int, streaming: Streaming) -> tuple[list[nn.Module], Replicas]:
    torch.manual_seed(1)
    models: list[nn.Module] = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(size)]
    if streaming.delay:
        models = [nn.Linear(4, 3) for _ in range(size)]
    return models, Replicas(models, method, every, streaming=streaming)


def train(models: list[nn.Module]) -> None:
    for rank, model in enumerate(models):
        for p in model.parameters():
            p.data.add_(rank + 1.0)


def outcome(models: list[nn.Module], run: Replicas, streaming: Streaming) -> str:
    """All that may differ: models, what was counted, states; frames of the steps to come follow from them.

    A frame that travelled when its landing was interrupted is made anew with what was learned since, so with a delay
    only counts are the same.
    """
    states, ledgers = run.state_dicts(), [ledger.messages for ledger in run.ledgers]
    if streaming.delay:
        return repr([ledgers, [(replica.steps, [o.state.rounds for o in replica.outer]) for replica in run._replicas]])
    return repr([[[x.tolist() for x in model.state_dict().values()] for model in models], ledgers, states])


class Interrupt:
    """Raise KeyboardInterrupt before the n-th line of the package that runs."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame, event: str, _: object):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self


def interrupted(left: Interrupt, call: Callable[[], object]) -> bool:
    """Whether the call was interrupted."""
    before = sys.gettrace()
    sys.settrace(left)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def play(kind: int, n: int) -> tuple[str, bool, bool]:
    """What a run leaves when the n-th line within its steps is interrupted; whether one was, and whether it was said.

    The interrupted call is made again; where it says that the step is torn, the run begins anew from its first states.
    """
    size, method, every, streaming = KINDS[kind]
    models, run = begin(size, method, every, streaming)
    saved, kept = run.state_dicts(), copy.deepcopy(models)
    left, cut, said = Interrupt(n), False, False

    def steps() -> None:
        nonlocal cut, said
        for _ in range(every + streaming.delay):
            train(models)
            counted = run._replicas[0].steps
            cut = interrupted(left, run.step) or cut
            run.values()  # refused once a step is torn
            if run._replicas[0].steps == counted:
                run.step()

    try:
        steps()
    except fb.LocalError as error:
        assert cut and SAID in str(error), (n, error)
        said = True
        for call in (run.step, run.values, run.state_dicts):
            with pytest.raises(fb.LocalError, match=SAID):
                call()
        run.load_state_dicts(saved)
        for model, last in zip(models, kept, strict=True):
            model.load_state_dict(last.state_dict())
        steps()
    return outcome(models, run, streaming), cut, said


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda i: f"{KINDS[i][1]} among {KINDS[i][0]}, {KINDS[i][3]}")
def test_an_interrupt_at_any_line_is_said_or_the_next_call_gives_the_uninterrupted_bits(kind):
    expected, cut, _ = play(kind, 10**9)
    assert not cut
    found: set[bool] = set()
    for n in range(1, 10**9, EVERY):
        after, cut, said = play(kind, n)
        if not cut:
            break
        assert after == expected, n
        found.add(said)
    assert found == {False, True}


def test_a_mean_that_some_models_have_not_become_is_said_until_states_are_loaded():
    models, run = begin(3, "noloco", 1, Streaming())
    train(models)
    run.step()
    saved, seen = run.state_dicts(), set()
    lines = iter(range(1, 10**9, EVERY))
    while interrupted(Interrupt(next(lines)), run.average):
        try:
            run.values()
        except fb.LocalError as error:
            assert SAID in str(error)
            seen.add("said")
            run.load_state_dicts(saved)
        else:
            assert repr(run.state_dicts()) == repr(saved)
            seen.add("as before")
    assert seen == {"said", "as before"}


def test_an_interrupt_of_one_rank_is_read_by_all_until_all_load_their_states():
    def act(process: ProcessInfo) -> list:
        join(process)
        model = net()
        outer = OuterStep(model, every=1, timeout=20.0)
        saved, start = outer.state_dict(), copy.deepcopy(model.state_dict())
        whole = ReplicaTensors.write

        def write(*_: object) -> None:
            raise KeyboardInterrupt

        inner_step(model, process.rank, 0)
        if process.rank == 1:
            ReplicaTensors.write = write
        words = ""
        try:
            outer.step()
        except KeyboardInterrupt:
            words = "interrupted, "
        ReplicaTensors.write = whole
        try:
            outer.step()
        except fb.FewbitsError as error:
            words += str(error)
        outer.load_state_dict(saved)
        model.load_state_dict(start)
        inner_step(model, process.rank, 0)
        return [words, outer.step(), digest(model), outer.ledger.messages["up"]]

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    first, second = (outcome.value for outcome in outcomes)
    assert first[0] == f"rank 1 refused: OuterStep: {SAID}"
    assert second[0] == f"interrupted, OuterStep: {SAID}"
    assert first[1:] == second[1:] and first[1] is True and first[3] == 1


def test_a_rank_that_left_half_way_is_said():
    seen = set()
    for n in range(1, 10**9, EVERY):
        models, run = begin(3, "fedpaq", 1, Streaming())
        if not interrupted(Interrupt(n), lambda run=run: run.leave(1)):
            break
        try:
            run.values()
        except fb.LocalError as error:
            assert SAID in str(error)
            seen.add("said")
        else:
            train(models)
            assert run.step()
            seen.add(run.ranks)
    assert {"said", (0, 1, 2)} <= seen <= {"said", (0, 1, 2), (0, 2)}
