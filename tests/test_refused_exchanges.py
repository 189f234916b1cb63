"""A refused exchange that is repaired: the run goes on as if it had not been."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.message_gather import MessageGather
from fewbits.replicas.note import noted
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

METHODS = ["dense", "lbgm+topk@feedback=outside", "fedpaq@bits=4", "signsgd"]
TIMEOUT = 15.0


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def plain() -> nn.Module:
    """Without buffers."""
    model = net()
    return nn.Sequential(model[0], model[2], model[3])  # type: ignore[index]


def broken(model: nn.Module, step) -> str:
    """Call `step` while a weight is NaN, and repair it; the sentence."""
    before = model[0].weight.data[0, 0].clone()
    model[0].weight.data[0, 0] = torch.nan
    try:
        step()
    except fb.FewbitsError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        model[0].weight.data[0, 0] = before
    return "no error"


@pytest.mark.parametrize("method", METHODS)
def test_a_repaired_run_of_replicas_is_the_run_without_the_fault(method):
    def end(fault: bool) -> list:
        models = [net() for _ in range(3)]
        replicas = Replicas(models, method, every=2)
        for step in range(8):
            for rank, model in enumerate(models):
                inner_step(model, rank, step)
            if fault and step in (1, 5):
                before = repr(replicas.state_dicts())
                for rank in (2, 0):
                    assert "LocalError: Sender.send: 0.weight has 1 NaN" in broken(models[rank], replicas.step)
                    assert repr(replicas.state_dicts()) == before
            replicas.step()
        return [[digest(model) for model in models], replicas.sent_bytes, repr(replicas.state_dicts())]

    assert end(True) == end(False)


def test_with_a_delay_a_refused_frame_is_made_anew_when_it_would_be_used():
    models = [plain() for _ in range(2)]
    replicas = Replicas(models, "fedpaq@bits=4", every=4, streaming=Streaming(delay=2), optimizer=fb.ServerSGD())
    seen = []
    for step in range(8):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        if step == 3:  # the first exchange
            assert broken(models[1], replicas.step) == "no error"  # all ranks learn of it two steps later
            with pytest.raises(fb.LocalError, match="a frame travels; ask again once it was used, 2 steps later"):
                replicas.state_dicts()
            continue
        if step == 5:
            with pytest.raises(fb.LocalError, match=r"0\.weight has 1 NaN"):
                replicas.step()
            states = replicas.state_dicts()
            assert [state["steps"] for state in states] == [5, 5]
            saved = copy.deepcopy([models, states])
        seen.append(replicas.step())
        if seen[-1]:
            assert digest(models[0]) == digest(models[1])  # nothing was learned between the new frame and its use
    assert seen == [False, False, False, False, True, False, False]

    models, states = saved  # and the state between the two knows what is to come
    replicas = Replicas(models, "fedpaq@bits=4", every=4, streaming=Streaming(delay=2), optimizer=fb.ServerSGD())
    replicas.load_state_dicts(states)
    assert replicas.step() and digest(models[0]) == digest(models[1])


def said(make) -> str:
    try:
        return str(make())
    except fb.FewbitsError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("delay", [0, 1])
def test_processes_repair_a_refused_exchange_and_end_as_one_process_does(delay):
    streaming = Streaming(fragments=2, delay=delay)

    def act(process: ProcessInfo) -> list:
        join(process)
        model, found = plain(), []
        outer = OuterStep(model, METHODS[1], every=4, streaming=streaming, timeout=TIMEOUT)
        for step in range(14):
            inner_step(model, process.rank, step)
            if step in (1, 9) and process.rank == 1:  # the first exchange, too
                found.append(broken(model, outer.step))
            else:
                found.append(said(outer.step))
            if found[-1][0] in "LP":
                found.append(said(outer.step))
        return [found, digest(model), outer.sent_bytes, outer.steps]

    models = [plain() for _ in range(3)]
    replicas = Replicas(models, METHODS[1], every=4, streaming=streaming)
    for step in range(14):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        if step in (1, 9):
            broken(models[1], replicas.step)
            if not delay:
                replicas.step()
        elif said(replicas.step)[0] == "L":
            replicas.step()
    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    words = "0.weight has 1 NaN and 0 infinite values of 192; send finite updates"
    for rank, outcome in enumerate(outcomes):
        found, ends, sent, steps = outcome.value
        own = "LocalError: Sender.send: " if rank == 1 else "PeerLostError: rank 1 refused: Sender.send: "
        assert [x for x in found if x[0] in "LP"] == [own + words] * 2
        assert [ends, sent, steps] == [digest(models[rank]), replicas.sent_bytes[rank], 14]


def test_loading_a_state_while_frames_travel_forgets_them():
    streaming = Streaming(delay=2)

    def act(process: ProcessInfo) -> list:
        join(process)
        model = plain()
        outer = OuterStep(model, METHODS[1], every=3, streaming=streaming, timeout=TIMEOUT)
        saved, ends = [], []
        for step in (*range(7), *range(2, 9)):
            if step == 2 and not saved:
                saved = copy.deepcopy([model.state_dict(), outer.state_dict()])
            elif step == 2:
                model.load_state_dict(saved[0])
                outer.load_state_dict(saved[1])  # type: ignore[arg-type]
            inner_step(model, process.rank, step)
            outer.step()
            if step == 6:
                ends.append(digest(model))
        return [ends, digest(model)]

    models = [plain() for _ in range(2)]
    replicas = Replicas(models, METHODS[1], every=3, streaming=streaming)
    for step in range(9):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    for rank, outcome in enumerate(outcomes):
        assert len(set(outcome.value[0])) == 1 and outcome.value[1] == digest(models[rank])


def test_a_result_in_the_background_may_be_asked_for_again():
    asked = in_background(lambda: [3])
    assert asked() is asked()

    def fail() -> None:
        raise fb.LocalError("no")

    failed = in_background(fail)
    for _ in range(2):
        with pytest.raises(fb.LocalError, match="no"):
            failed()


def test_any_error_of_a_rank_reaches_the_others_and_a_lost_rank_is_named_again():
    def act(process: ProcessInfo) -> list:
        join(process)
        gather = MessageGather(None, 1.0, "test")

        def exchange(note: int = 0) -> str:
            with gather.refusing():
                if process.rank == 1 and note == 1:
                    raise ZeroDivisionError("by chance")
            return str([bytes(x) for x in gather(bytes([process.rank]), note, 100)])

        seen = []
        for note in (1, noted(30 + process.rank, 7), noted(30, process.rank), 0):
            try:
                seen.append(exchange(note))
            except (fb.FewbitsError, ZeroDivisionError) as error:
                seen.append(f"{type(error).__name__}: {error}")
        if process.rank == 0:
            seen += [said(lambda: gather(b"", 0, 100)) for _ in range(2)]
        return seen

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    first, second = outcomes[0].value, outcomes[1].value
    assert [first[0], second[0]] == ["PeerLostError: rank 1 refused: by chance", "ZeroDivisionError: by chance"]
    assert first[1:4] == second[1:4]
    assert first[1] == (
        "DesyncError: the ranks are not at the same step: rank 0 is at step 30, rank 1 is at step 31; load the states "
        "of one step on all ranks"
    )
    assert "all at step 30, but their models or histories differ: rank 0 has checksum 00000000, rank 1" in first[2]
    assert first[3] == "[b'\\x00', b'\\x01']"
    assert first[4] == first[5] and "rank 1" in first[4]


@pytest.mark.parametrize("part", ["moments", "receivers"])
def test_loaded_states_that_differ_in_anything_are_found_before_the_next_step(part):
    def act(process: ProcessInfo) -> list:
        join(process)
        model = plain()
        outer = OuterStep(model, METHODS[1], 1, fb.ServerSGD(momentum=0.5), timeout=TIMEOUT)
        inner_step(model, process.rank, 0)
        outer.step()
        early = outer.state_dict()
        inner_step(model, process.rank, 1)
        outer.step()
        state = outer.state_dict()
        wrong = copy.deepcopy(state)
        if process.rank:
            wrong["fragments"][0][part] = early["fragments"][0][part]  # type: ignore[index]
        outer.load_state_dict(wrong)
        inner_step(model, process.rank, 2)
        before = digest(model)
        seen = said(outer.step)
        same = before == digest(model)
        outer.load_state_dict(state)
        return [seen, same, outer.step(), digest(model)]

    first, second = run_all(act, processes(2))
    assert [first.code, second.code] == [0, 0], (first, second)
    assert first.value == second.value
    seen, same, stepped, _ = first.value
    assert seen.startswith("DesyncError: the ranks are all at step 3, but their models or histories differ: rank 0 has")
    assert same and stepped


def test_an_outer_step_that_lands_in_a_changed_model_is_given_to_it_after_the_repair():
    """theta' + (now - sent), though the model of rank 1 was another one when the frames were used."""
    models = [plain() for _ in range(2)]
    replicas = Replicas(models, "dense", every=4, streaming=Streaming(delay=2), optimizer=fb.ServerSGD())
    for step in range(5):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
        if step == 3:
            sent = [model[0].weight.detach().clone() for model in models]  # type: ignore[index]
    before = {name: x.clone() for name, x in models[1].state_dict().items()}
    models[1].half()
    assert replicas.step()  # the other rank has moved, so this one does, too
    with pytest.raises(fb.LocalError, match="was float32"):
        replicas.state_dicts()
    models[1].float().load_state_dict(before)
    assert replicas.state_dicts()[1]["steps"] == 6
    theta = (sent[0] + sent[1]) / 2
    expected = theta + (before["0.weight"] - sent[1])
    assert torch.allclose(models[1][0].weight, expected, atol=1e-6)  # type: ignore[index]
    for _ in range(4):
        replicas.step()
