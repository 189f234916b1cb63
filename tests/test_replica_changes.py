"""A program puts other tensors into a replica's module, or numbers that no replica may have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.rng import Key
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

KEY = Key(5)
SGD = fb.ServerSGD()
TIMEOUT = 15.0


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


class Average(nn.Module):
    """A forward pass that assigns a buffer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y


def run(replace, steps: int = 4, **options) -> list[str]:
    """Digests of three replicas; `replace` is called with each model before the third exchange."""
    models = [net() for _ in range(3)]
    replicas = Replicas(models, "topk@fraction=0.2", every=1, **options)
    for step in range(steps):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
            if step == 2:
                replace(model)
        assert replicas.step()
    return [digest(nn.ParameterList(p for _, p in sorted(model.named_parameters()))) for model in models]


def buffers_anew(model: nn.Module) -> None:
    for part in model.modules():
        for name, x in list(part._buffers.items()):
            part._buffers[name] = x.clone()


def in_another_order(layer: nn.Module) -> None:
    layer.register_parameter("weight", layer._parameters.pop("weight"))


REPLACE = {
    "assign": lambda model: model.load_state_dict(
        {name: x.clone() for name, x in model.state_dict().items()}, assign=True
    ),
    "to and back": lambda model: model.double().float(),
    "buffers": buffers_anew,
    "parameter": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    "order": lambda model: in_another_order(model[0]),
}


@pytest.mark.parametrize("how", REPLACE)
def test_tensors_that_are_replaced_by_others_of_their_kind_simply_work(how):
    expected = run(lambda model: None)
    assert len(set(expected)) == 1
    assert run(REPLACE[how]) == expected


def test_a_buffer_that_the_forward_pass_assigns_travels():
    models = [Average() for _ in range(2)]
    replicas = Replicas(models, every=1)
    for step in range(3):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
        assert torch.equal(models[0].average, models[1].average) and bool(models[0].average.any())


CHANGES = [
    (lambda m: m.to(torch.bfloat16), r"0\.weight was float32 \[16, 12\] and is bfloat16 \[16, 12\]"),
    (lambda m: m[3].requires_grad_(False), r"3\.weight was float32 \[4, 16\] and is frozen float32 \[4, 16\]"),
    (lambda m: setattr(m, "4", nn.Linear(4, 2)), r"4\.weight was not there and is float32 \[2, 4\]"),
    (lambda m: setattr(m[0], "bias", None), r"0\.bias was float32 \[16\] and is gone"),
    (lambda m: setattr(m[0], "bias", nn.Parameter(torch.zeros(1))), r"0\.bias was float32 \[16\] and is float32 \[1\]"),
    (lambda m: m.register_buffer("seen", torch.zeros(2)), r"seen was not there and is buffer float32 \[2\]"),
    (
        lambda m: setattr(m[1], "num_batches_tracked", torch.tensor(0.0)),
        r"1\.num_batches_tracked was buffer int64 \[\] and is buffer float32 \[\]",
    ),
]


@pytest.mark.parametrize("change", range(len(CHANGES)))
@pytest.mark.parametrize("which", [0, 1])
def test_a_model_of_other_tensors_is_refused_with_both_and_nothing_moves(change, which):
    make, words = CHANGES[change]
    models = [net() for _ in range(2)]
    replicas = Replicas(models, every=1)
    for rank, model in enumerate(models):
        inner_step(model, rank, 0)
    replicas.step()
    before = digest(models[1 - which]), repr(replicas.values())
    make(models[which])
    with pytest.raises(fb.LocalError, match=f"the model is not the one of the start: {words}; undo this, or make"):
        replicas.step()
    assert (digest(models[1 - which]), repr(replicas.values())) == before and replicas._replicas[0].steps == 1


def test_unfrozen_parameters_are_refused():
    def build() -> nn.Module:
        model = net()
        model[3].requires_grad_(False)
        return model

    models = [build(), build()]
    replicas = Replicas(models, every=1)
    for model in models:
        model[3].requires_grad_(True)
    with pytest.raises(fb.LocalError, match=r"3\.weight was frozen float32 \[4, 16\] and is float32"):
        replicas.step()
    for model in models:
        model[3].requires_grad_(False)
    assert replicas.step()


def test_buffers_that_do_not_travel_may_become_what_they_like():
    models = [net() for _ in range(2)]
    for model in models:
        model.register_buffer("mask", torch.full((2,), -torch.inf))
        model.register_buffer("scratch", torch.zeros(2), persistent=False)
    replicas = Replicas(models, every=1)
    models[1].mask = torch.zeros(5)
    models[1].scratch = None
    assert replicas.step()


def test_all_ranks_read_why_a_changed_model_is_refused_and_go_on_after_a_repair():
    def act(process: ProcessInfo) -> list:
        join(process)
        model = net()
        outer = OuterStep(model, every=1, timeout=TIMEOUT)
        inner_step(model, process.rank, 0)
        outer.step()
        if process.rank == 1:
            model.half()
        seen = []
        try:
            outer.step()
        except fb.FewbitsError as error:
            seen = [type(error).__name__, str(error)]
        model.float()
        model.load_state_dict({name: x.clone() for name, x in model.state_dict().items()}, assign=True)
        inner_step(model, process.rank, 1)
        return [*seen, outer.step(), digest(model)]

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    (kind, words, *after), (own_kind, own_words, *own_after) = (outcome.value for outcome in outcomes)
    assert (kind, own_kind) == ("PeerLostError", "LocalError")
    assert words == f"rank 1 refused: {own_words}"
    assert "0.weight was float32 [16, 12] and is float16 [16, 12]" in own_words
    assert after == own_after and after[0] is True


def test_replicas_compare_frozen_values_and_may_share_no_parameter():
    frozen = [net() for _ in range(2)]
    for rank, model in enumerate(frozen):
        model[3].requires_grad_(False).bias.data.fill_(float(rank))
    with pytest.raises(fb.LocalError, match=r"rank 0 has 3\.bias with checksum \w+; rank 1 has 3\.bias with checksum"):
        Replicas(frozen)
    layer = nn.Linear(3, 3)
    with pytest.raises(fb.LocalError, match=r"ranks 0 and 1 share 0\.weight"):
        Replicas([nn.Sequential(layer), nn.Sequential(layer)])


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_start_values_that_are_not_finite_are_named(value):
    models = [net() for _ in range(2)]
    models[0][3].weight.data[1, 1] = value
    with pytest.raises(fb.LocalError, match=r"3\.weight has 1 values of 64 that are not finite; start from finite"):
        Replicas(models)


def test_rank_0s_start_values_are_looked_at_by_all():
    models = [net() for _ in range(2)]
    replica = Replicas(models)._replicas[1]
    wrong = torch.frombuffer(bytearray(replica.snapshot()), dtype=torch.float32)
    wrong[7] = torch.inf
    before = digest(models[1])
    with pytest.raises(fb.WireError, match="not finite"):
        replica.restart(wrong.numpy().tobytes())
    assert digest(models[1]) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_outer_step_beyond_the_range_of_the_models_own_floats_is_refused(dtype):
    models = [nn.Linear(3, 2, bias=False).to(dtype) for _ in range(1)]  # the sum of two would leave float32's range
    for model in models:
        model.weight.data.zero_()
    replicas = Replicas(models, every=1, optimizer=fb.ServerSGD(lr=1.003))
    for model in models:
        model.weight.data.fill_(torch.finfo(dtype).max)
    before = [digest_of(model) for model in models]
    for _ in range(2):
        with pytest.raises(fb.WireError, match=r"outer step 1 would leave the range of weight \(b?float16\)"):
            replicas.step()
    assert [digest_of(model) for model in models] == before
    for model in models:
        model.weight.data.fill_(1.0)
    assert replicas.step() and bool(models[0].weight.isfinite().all())


def digest_of(model: nn.Module) -> bytes:
    return model.weight.detach().view(torch.uint8).numpy().tobytes()


def test_parameters_without_numbers_travel_beside_others_and_alone_are_refused():
    class Empty(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0, 3))
            self.some = nn.Parameter(torch.zeros(size))

    for method in ("dense", "topk@fraction=0.1", "fedpaq@bits=4"):
        models = [Empty(4), Empty(4)]
        replicas = Replicas(models, method, every=2, optimizer=SGD, streaming=Streaming(2))
        for _ in range(4):
            models[0].some.data.add_(2.0)
            replicas.step()
        assert torch.equal(models[0].some, models[1].some) and bool(models[1].some.any())
    with pytest.raises(fb.LocalError, match="no trainable parameter with numbers in it"):
        Replicas([Empty(0), Empty(0)])
    with pytest.raises(fb.LocalError, match="weight has no shape yet; pass a batch through the model first"):
        Replicas([nn.LazyLinear(3)])


def test_booleans_of_rank_0_arrive_as_booleans():
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for rank, model in enumerate(models):
        model.register_buffer("flags", torch.tensor([rank == 0, False, True]))
    replicas = Replicas(models, every=1)
    replicas.step()
    assert models[1].flags.tolist() == [True, False, True]
    replicas._replicas[1].tensors.write_whole(b"\x02\x00\x01")
    assert models[1].flags.view(torch.uint8).tolist() == [1, 0, 1]


def test_a_rank_that_joins_between_two_exchanges_counts_steps_with_the_others():
    """Even as the lowest rank, and its number is one that a snapshot can hold."""
    replicas = Replicas([net() for _ in range(3)], "fedpaq@bits=8", every=3)
    assert [replicas.step() for _ in range(4)] == [False, False, True, False]
    replicas.leave(0)
    replicas.join(net(), 0)
    replicas.load_state_dicts(replicas.state_dicts())
    assert [replicas.step() for _ in range(4)] == [False, True, False, False]
    for call in (
        lambda: replicas.join(net(), 2**31),
        lambda: replicas.leave(True),
        lambda: replicas.leave(1.0),  # type: ignore[arg-type]
    ):
        with pytest.raises(fb.LocalError, match="rank must be a whole number"):
            call()
    assert replicas.ranks == (0, 1, 2)
