"""OuterStep among real processes: what one process simulates, bit for bit; and ranks that differ, fail or die."""

from __future__ import annotations

import copy
import os
import signal
import time
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.errors import FewbitsError
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

METHODS = ["lbgm+topk@feedback=outside", "fedpaq@bits=4"]
TIMEOUT = 15.0


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def simulated(method: str, steps: int, size: int, **options) -> tuple[list[str], list[int]]:
    models = [net() for _ in range(size)]
    replicas = Replicas(models, method, **options)
    for step in range(steps):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
    return [digest(model) for model in models], replicas.sent_bytes


def test_processes_make_what_one_process_simulates_and_resume_to_the_same_bits(tmp_path):
    def act(process: ProcessInfo) -> list:
        join(process)
        found = []
        for method in METHODS:
            model = net(seed=process.rank)  # rank 0's values are sent to all
            outer = OuterStep(model, method, every=3, streaming=Streaming(2), timeout=TIMEOUT)
            for step in range(20):
                inner_step(model, process.rank, step)
                outer.step()
                if step == 9:
                    torch.save([outer.state_dict(), model.state_dict()], tmp_path / f"{process.rank}.pt")
            found.append([digest(model), outer.sent_bytes, outer.received_bytes])
        state, weights = torch.load(tmp_path / f"{process.rank}.pt", weights_only=True)
        model = net()
        outer = OuterStep(model, METHODS[-1], every=3, streaming=Streaming(2), timeout=TIMEOUT)
        model.load_state_dict(weights)
        outer.load_state_dict(state)
        for step in range(10, 20):
            inner_step(model, process.rank, step)
            outer.step()
        return [*found, [digest(model), outer.sent_bytes, outer.received_bytes]]

    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    for i, method in enumerate(METHODS):
        digests, sent = simulated(method, 20, 3, every=3, streaming=Streaming(2))
        assert [outcome.value[i][:2] for outcome in outcomes] == [
            list(pair) for pair in zip(digests, sent, strict=True)
        ]
        assert [outcome.value[i][2] for outcome in outcomes] == [sum(sent) // 2 - own // 2 for own in sent]
    assert [outcome.value[-1] for outcome in outcomes] == [outcome.value[1] for outcome in outcomes]


def test_frames_that_travel_while_training_goes_on_are_those_of_one_process():
    streaming = Streaming(fragments=2, delay=1)

    def plain() -> nn.Module:
        model = net()
        return nn.Sequential(model[0], model[2], model[3])  # type: ignore[index]

    def values(found: dict[str, torch.Tensor]) -> list[float]:
        return [float(x.double().sum()) for x in found.values()]

    def act(process: ProcessInfo) -> list:
        join(process)
        model = plain()
        outer = OuterStep(model, METHODS[0], every=4, streaming=streaming, timeout=TIMEOUT)
        for step in range(12):
            inner_step(model, process.rank, step)
            outer.step()
        seen = refusal(outer.state_dict)
        inner_step(model, process.rank, 12)
        landed = outer.step()
        return [digest(model), values(outer.values()), outer.sent_bytes, landed, seen, outer.state_dict()["steps"]]

    models = [plain() for _ in range(3)]
    replicas = Replicas(models, METHODS[0], every=4, streaming=streaming)
    for step in range(13):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    for rank, outcome in enumerate(outcomes):
        expected = [digest(models[rank]), values(replicas.values()), replicas.sent_bytes[rank], True]
        assert outcome.value[:4] == expected
        assert "a frame travels" in outcome.value[4] and outcome.value[5] == 13
    assert len({digest(model) for model in models}) == 3  # what each learned meanwhile


def refusal(make) -> str:
    """The error's class and sentence."""
    try:
        make()
    except FewbitsError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_ranks_that_differ_read_the_same_sentence_on_every_rank():
    wide = nn.Sequential(nn.Linear(12, 17))

    def act(process: ProcessInfo) -> list[str]:
        join(process)
        odd = process.rank == 2
        start = partial(OuterStep, timeout=TIMEOUT)
        seen = [
            refusal(lambda: start(net(), every=50 if odd else 30)),
            refusal(lambda: start(net(), "topk" if odd else "dense")),
            refusal(lambda: start(wide if odd else net())),
            refusal(lambda: start(net(), optimizer=fb.ServerSGD() if odd else None)),
            refusal(lambda: start(net(), key=fb.Key(int(odd)))),
            refusal(lambda: start(nn.Sequential(nn.Linear(2, 2), _frozen(odd)))),
        ]
        fb.__version__ = "0.2.0" if odd else "0.1.0"
        seen.append(refusal(lambda: start(net())))
        outer = None

        def different_steps() -> None:
            nonlocal outer
            outer = start(net(), every=1)
            if odd:
                torch.nn.init.zeros_(outer._replica.outer[0].state.theta)
                outer._replica.outer[0].start(outer._replica.outer[0].state)
            outer.step()

        fb.__version__ = "0.1.0"
        return [*seen, refusal(different_steps)]

    first, *others = run_all(act, processes(3))
    assert first.code == 0, first
    assert [outcome.value for outcome in others] == [first.value] * 2
    begin = "DesyncError: the ranks were not started for the same run, their "
    assert first.value[0] == f"{begin}every differs: ranks 0, 1 have 30; rank 2 has 50"
    assert first.value[1] == f"{begin}method differs: ranks 0, 1 have dense; rank 2 has topk"
    assert (
        "model differs: ranks 0, 1 have 0.weight, float32 [16, 12]; rank 2 has 0.weight, float32 [17, 12]"
        in (first.value[2])
    )
    assert "outer optimizer differs: ranks 0, 1 have server_sgd(lr=0.7" in first.value[3]
    assert "key differs: ranks 0, 1 have [0]; rank 2 has [1]" in first.value[4]
    assert first.value[5].startswith(
        f"{begin}frozen part of the model differs: ranks 0, 1 have 1.weight with checksum "
    )
    assert "version of fewbits differs: ranks 0, 1 have 0.1.0; rank 2 has 0.2.0" in first.value[6]
    words = "DesyncError: the ranks are all at step 1, but their models or histories differ: rank 0 has checksum "
    assert first.value[7].startswith(words)


def _frozen(odd: bool) -> nn.Module:
    layer = nn.Linear(2, 2).requires_grad_(False)
    nn.init.constant_(layer.weight, float(odd))
    nn.init.zeros_(layer.bias)
    return layer


def test_an_error_of_one_rank_ends_all_with_its_sentence():
    def act(process: ProcessInfo) -> list[str]:
        join(process)
        start = partial(OuterStep, timeout=TIMEOUT)
        odd = process.rank == 1
        seen = [
            refusal(lambda: start(net(), every=0 if odd else 30)),
            refusal(lambda: start(net(), "fedpara" if odd else "dense")),
        ]
        model = net()
        outer = start(model, every=1)
        if odd:
            model[0].weight.data[0, 0] = torch.nan
        return [*seen, refusal(outer.step)]

    outcomes = run_all(act, processes(3))
    for rank, outcome in enumerate(outcomes):
        begin = "LocalError: " if rank == 1 else "PeerLostError: rank 1 refused: "
        assert outcome.value[0] == f"{begin}OuterStep: every must be a whole number, 1 or more; got 0"
        assert outcome.value[1].startswith(f"{begin}OuterStep: method 'fedpara' factors the model")
        assert outcome.value[2].startswith(f"{begin}Sender.send: 0.weight has 1 NaN and 0 infinite values")


@pytest.mark.parametrize(("how", "words"), [("killed", "rank 2 was lost"), ("late", "rank 2 has sent nothing for 2 s")])
def test_a_rank_that_dies_or_hangs_is_named_by_all_others(how, words):
    def act(process: ProcessInfo) -> float:
        join(process)
        model = net()
        dist.barrier()
        outer = OuterStep(model, "fedpaq", every=1, timeout=2.0 if how == "late" else TIMEOUT)
        for step in range(6):
            inner_step(model, process.rank, step)
            if step == 3 and process.rank == 2:
                if how == "late":
                    time.sleep(4)
                os.kill(os.getpid(), signal.SIGKILL)
            outer.step()
        return 0.0

    outcomes = run_all(act, processes(3))
    assert outcomes[2].code == -signal.SIGKILL
    for outcome in outcomes[:2]:
        assert outcome.error == "PeerLostError" and words in outcome.text, outcome


def test_a_group_of_some_ranks_and_one_rank_alone():
    def act(process: ProcessInfo) -> list:
        join(process)
        pair = dist.new_group([0, 1])
        alone = dist.new_group([2])
        if process.rank == 2:
            seen = refusal(lambda: OuterStep(net(), group=pair, timeout=TIMEOUT))
        else:
            seen = ""
        model = net()
        outer = OuterStep(model, "signsgd", every=1, group=alone if process.rank == 2 else pair, timeout=TIMEOUT)
        for step in range(3):
            inner_step(model, process.rank, step)
            if process.rank == 0:  # the others are not told, and go on
                assert refusal(outer.average).startswith("LocalError: OuterStep: without a partner")
            outer.step()
        return [seen, digest(model), outer.sent_bytes]

    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    digests, sent = simulated("signsgd", 3, 2, every=1)
    assert [outcome.value[1:] for outcome in outcomes[:2]] == [list(pair) for pair in zip(digests, sent, strict=True)]
    assert outcomes[2].value[0].endswith("OuterStep: this process (rank 2) is not in the group")
    assert outcomes[2].value[2] == 0


def test_without_a_process_group_the_sentence_says_what_to_do():
    with pytest.raises(fb.LocalError, match=r"init_process_group\(\) first, in a program that torchrun starts"):
        OuterStep(copy.deepcopy(net()))
    with pytest.raises(fb.LocalError, match=r"group must be a process group of torch\.distributed, or None; got 5"):
        OuterStep(net(), group=5)
    for timeout in (1e300, torch.nan):
        with pytest.raises(fb.LocalError, match=r"timeout must be a number in \(0, 1e9\]"):
            OuterStep(net(), timeout=timeout)
