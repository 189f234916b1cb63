"""Whose memory replicas step in: models share none, and tensors that cannot be written to are refused before a step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, RandomPartner, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

SHARED = r"ranks 0 and 1 share 0\.weight; copy\.deepcopy the model, or load clones of its tensors"


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def load_shared(models: list[nn.Module]) -> None:
    values = {name: x.clone() for name, x in models[0].state_dict().items()}
    for model in models:
        model.load_state_dict(values, assign=True)


def load_apart(models: list[nn.Module]) -> None:
    for model in models:
        model.load_state_dict({name: x.clone() for name, x in model.state_dict().items()}, assign=True)


def test_parameters_over_one_memory_are_refused_though_they_are_different_tensors():
    models = [net() for _ in range(3)]
    load_shared(models)
    with pytest.raises(fb.LocalError, match=SHARED):
        Replicas(models)


def test_parts_of_one_tensor_that_overlap_are_refused_and_others_are_taken():
    memory = torch.zeros(20)
    models = [nn.Linear(2, 4, bias=False) for _ in range(2)]
    models[0].weight.data, models[1].weight.data = memory[:8].view(4, 2), memory[8:16].view(4, 2)
    assert Replicas(models, every=1).step()
    models[1].weight.data = memory[7:15].view(4, 2)
    with pytest.raises(fb.LocalError, match="ranks 0 and 1 share weight"):
        Replicas(models)
    models = [nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)) for _ in range(2)]
    models[1][1].weight.data = models[0][0].weight.data.view(2, 4)
    with pytest.raises(fb.LocalError, match=r"ranks 0 and 1 share the memory of [01]\.weight and [01]\.weight"):
        Replicas(models)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("method", ["dense", "fedpaq", RandomPartner()], ids=str)
def test_memory_that_models_share_later_is_refused_before_an_exchange_and_a_repair_goes_on(method, size):
    models = [net() for _ in range(size)]
    replicas = Replicas(models, method, every=1)
    for rank, model in enumerate(models):
        inner_step(model, rank, 0)
    replicas.step()
    load_shared(models)
    before = digest(models[0]), repr(replicas.state_dicts())
    with pytest.raises(fb.LocalError, match=SHARED):
        replicas.step()
    assert (digest(models[0]), repr(replicas.state_dicts())) == before
    load_apart(models)
    assert replicas.step()


def test_models_that_share_memory_while_a_frame_travels_are_refused_when_it_lands():
    models = [nn.Linear(3, 2) for _ in range(2)]
    replicas = Replicas(models, every=2, streaming=Streaming(1, 1))
    replicas.step()
    replicas.step()
    before = repr(replicas.values())
    load_shared(models)
    with pytest.raises(fb.LocalError, match="ranks 0 and 1 share weight"):
        replicas.step()
    assert repr(replicas.values()) == before
    load_apart(models)
    assert replicas.step()


def test_a_mean_of_models_that_share_memory_is_refused():
    models = [net() for _ in range(2)]
    replicas = Replicas(models, "noloco")
    load_shared(models)
    with pytest.raises(fb.LocalError, match=SHARED):
        replicas.average()


def made_in_inference(model: nn.Module) -> None:
    with torch.inference_mode():
        model[0].weight.data = model[0].weight + 0


def buffer_made_in_inference(model: nn.Module) -> None:
    with torch.inference_mode():
        model[1].running_mean = model[1].running_mean + 0


def expanded(model: nn.Module) -> None:
    model[3].bias.data = torch.zeros(1).expand(4)


def windows(model: nn.Module) -> None:
    model[3].weight.data = torch.zeros(19).as_strided((4, 16), (1, 1))


def count_expanded(model: nn.Module) -> None:
    model.register_buffer("counts", torch.zeros(1, dtype=torch.int64).expand(2))


def without_values(model: nn.Module) -> None:
    model[1].running_mean = model[1].running_mean.to("meta")


FAULTS: list[tuple[Callable, str]] = [
    (made_in_inference, r"0\.weight was made under torch\.inference_mode\(\)"),
    (buffer_made_in_inference, r"1\.running_mean was made under torch\.inference_mode\(\)"),
    (expanded, r"3\.bias has several numbers in one place of memory, as expand\(\) makes them \(shape \(4,\), strides"),
    (windows, r"3\.weight has several numbers in one place of memory"),
    (count_expanded, r"counts has several numbers in one place of memory"),
    (without_values, r"1\.running_mean must hold all of its numbers; got a tensor of torch\.strided on meta"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_tensor_that_cannot_be_written_to_is_refused_at_the_start(fault, words):
    models = [net() for _ in range(2)]
    for model in models:
        fault(model)
    with pytest.raises(fb.LocalError, match=words):
        Replicas(models)


@pytest.mark.parametrize(("fault", "words"), FAULTS[:4], ids=[fault.__name__ for fault, _ in FAULTS[:4]])
@pytest.mark.parametrize("method", ["fedpaq", "noloco"])
def test_a_tensor_that_cannot_be_written_to_is_refused_before_anything_moves(method, fault, words):
    def run(wrong: bool) -> str:
        models = [net() for _ in range(2)]
        replicas = Replicas(models, method, every=1)
        for rank, model in enumerate(models):
            inner_step(model, rank, 0)
        if wrong:
            kept = {name: x.clone() for name, x in models[1].state_dict().items()}
            fault(models[1])
            with pytest.raises(fb.LocalError, match=words):
                replicas.step()
            models[1].load_state_dict(kept, assign=True)
        replicas.step()
        return repr([[digest(model) for model in models], replicas.state_dicts()])

    assert run(True) == run(False)


def test_inside_inference_mode_its_tensors_are_taken_and_constants_may_be_expanded():
    models = [net() for _ in range(2)]
    for model in models:
        model.register_buffer("mask", torch.full((1,), -torch.inf).expand(5))
    replicas = Replicas(models, every=1)
    with torch.inference_mode():
        made_in_inference(models[1])
        assert replicas.step()


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_read_what_cannot_be_written_to_and_go_on_after_a_repair(size):
    def act(process: ProcessInfo) -> list:
        join(process)
        model = net()
        outer = OuterStep(model, every=1, timeout=20.0)
        inner_step(model, process.rank, 0)
        kept = {name: x.clone() for name, x in model.state_dict().items()}
        if process.rank == 1:
            expanded(model)
        try:
            outer.step()
        except fb.FewbitsError as error:
            words = str(error)
        model.load_state_dict(kept, assign=True)
        return [words, outer.step(), digest(model), dict(outer.ledger.messages)]

    outcomes = run_all(act, processes(size))
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes
    words = [outcome.value[0] for outcome in outcomes]
    assert "3.bias has several numbers in one place of memory" in words[1]
    assert {words[rank] for rank in range(size) if rank != 1} == {f"rank 1 refused: {words[1]}"}
    models = [net() for _ in range(size)]
    replicas = Replicas(models, every=1)
    for rank, model in enumerate(models):
        inner_step(model, rank, 0)
    replicas.step()
    expected = [True, digest(models[0])]
    for outcome, ledger in zip(outcomes, replicas.ledgers, strict=True):
        assert outcome.value[1:] == [*expected, ledger.messages]
