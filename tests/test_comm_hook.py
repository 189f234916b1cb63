"""comm_hook: DDP's own mean with the dense codec, less with others; the same bits everywhere, and after a resume."""

from __future__ import annotations

import os
import signal
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fewbits as fb
from fewbits.distributed import HookState, comm_hook
from fewbits.engines.distributed import ProcessInfo
from fewbits.errors import FewbitsError
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join

BUCKET = 0.002  # MB: DDP makes several buckets, in another order from the second step on
TIMEOUT = 15.0
JUNK = [[1], 3, "x", None, {"facts": None}, {"facts": {"method": torch.zeros(2)}}, {"facts": 3.0}]


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Load compiled kernels, and what DDP imports when it is first used, once and before processes are forked."""
    import_module("torch._dynamo")
    import_module("torch.distributed.rpc")
    sender = fb.Sender(fb.methods.build("lbgm+topk").up, fb.Spec((64,)), fb.Key(0))
    sender.send(torch.arange(64.0))


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 4))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=fb.Key(2).fold(name).generator()))
    return model


def ddp(method: str | None, model: nn.Module | None = None, **options) -> tuple[DistributedDataParallel, HookState]:
    found = DistributedDataParallel(model or net(), bucket_cap_mb=BUCKET)
    state, hook = comm_hook(method or "dense", timeout=TIMEOUT, **options)
    if method is not None:
        found.register_comm_hook(state, hook)
    return found, state


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_dense_is_ddps_own_mean_and_all_codecs_give_all_ranks_the_same_bits():
    def act(process: ProcessInfo) -> list:
        join(process)
        plain, _ = ddp(None)
        found = []
        for method in ("dense", "fedpaq@bits=8", "topk@fraction=0.1"):
            model, state = ddp(method)
            for step in range(6):
                inner_step(model, process.rank, step)
                if method == "dense":
                    inner_step(plain, process.rank, step)
            found.append([digest(model), distance(model, plain), state.sent_bytes, state.ledger.messages["up"]])
        return found

    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    dense, few, sparse = zip(*(outcome.value for outcome in outcomes), strict=True)
    for of_method in (dense, few, sparse):
        assert len({digest for digest, *_ in of_method}) == 1
        assert [messages for *_, messages in of_method] == [12] * 3
    assert all(distance < 1e-6 for _, distance, *_ in dense)
    numel = sum(p.numel() for p in net().parameters())
    assert dense[0][2] == 6 * 2 * (16 + 4 * numel)
    assert few[0][2] < dense[0][2] / 3.8
    assert sparse[0][2] < dense[0][2] / 15


def test_a_resumed_hook_gives_the_same_bits_though_ddp_orders_its_buckets_anew(tmp_path):
    def act(process: ProcessInfo) -> list:
        join(process)
        options = {"method": "lbgm+topk@feedback=outside,threshold=0.9", "warmup": 2}

        def go(model, steps) -> None:
            for step in steps:
                inner_step(model, process.rank, step)

        model, state = ddp(**options)
        go(model, range(5))
        torch.save([state.state_dict(), model.module.state_dict()], tmp_path / f"{process.rank}.pt")
        go(model, range(5, 9))
        ends = [digest(model.module), state.sent_bytes, state.steps]
        saved, weights = torch.load(tmp_path / f"{process.rank}.pt", weights_only=True)
        again = net()
        again.load_state_dict(weights)
        model, state = ddp(**options, model=again)
        state.load_state_dict(saved)
        go(model, range(5, 9))
        seen = []
        model, state = ddp("topk", warmup=2)
        try:
            state.load_state_dict(saved)
        except FewbitsError as error:
            seen = [type(error).__name__, str(error)]
        return [ends, [digest(again), state.steps], seen]

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0] * 2, outcomes
    for outcome in outcomes:
        (expected, *_), (found, _), seen = outcome.value
        assert found == expected
        words = "the method is topk; that of the state is lbgm+topk@feedback=outside,threshold=0.9"
        assert seen == ["LocalError", f"load_state_dict: {words}"]


def test_a_rank_whose_gradient_points_as_before_sends_a_scalar():
    def act(process: ProcessInfo) -> list:
        join(process)
        model, state = ddp("lbgm@threshold=0.1")
        lengths, before = [], 0
        for step in range(4):
            inner_step(model, process.rank, 0 if process.rank == 0 else step, lr=1e-4)  # rank 0: one batch for ever
            lengths.append(state.sent_bytes - before)
            before = state.sent_bytes
        return [lengths, digest(model)]

    first, second = run_all(act, processes(2))
    full = 16 + 4 * sum(p.numel() for p in net().parameters()) + 1
    assert first.value[0] == [full, 16 + 5, 16 + 5, 16 + 5]
    assert second.value[0] == [full] * 4
    assert first.value[1] == second.value[1]


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = net(), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def said(make) -> str:
    try:
        make()
    except (FewbitsError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_what_a_hook_cannot_carry_is_a_sentence_on_every_rank():
    def act(process: ProcessInfo) -> list[str]:
        join(process)

        def sparse() -> None:
            model, _ = ddp("dense", nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2)))
            model(torch.tensor([1, 2])).sum().backward()

        def unused() -> None:
            model, _ = ddp("dense", Unused())
            for step in range(2):
                inner_step(model, process.rank, step)

        def infinite() -> None:
            model, _ = ddp("dense")
            model(torch.full((2, 12), torch.inf if process.rank else 1.0)).sum().backward()

        def different() -> None:
            comm_hook("topk" if process.rank else "dense", timeout=TIMEOUT)

        def wrong() -> None:
            comm_hook("dense", warmup=-1 if process.rank else 0, timeout=TIMEOUT)

        return [said(make) for make in (sparse, unused, infinite, different, wrong)]

    outcomes = run_all(act, processes(2))
    for rank, outcome in enumerate(outcomes):
        sparse, unused, infinite, different, wrong = outcome.value
        peer = "LocalError: " if rank else "PeerLostError: rank 1 refused: "
        assert "comm_hook: a gradient is sparse" in sparse and "use sparse=False" in sparse
        assert unused.startswith("RuntimeError: Expected to have finished reduction")  # DDP's own
        assert infinite.startswith(f"{peer}Sender.send: ")
        assert different.startswith("DesyncError: the ranks were not started for the same run, their method differs:")
        assert wrong == f"{peer}comm_hook: warmup must be a whole number, 0 or more; got -1"


def test_a_rank_that_dies_in_backward_is_named():
    def act(process: ProcessInfo) -> None:
        join(process)
        model, _ = ddp("dense")
        for step in range(4):
            if step == 2 and process.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            inner_step(model, process.rank, step)

    first, second = run_all(act, processes(2))
    assert second.code == -signal.SIGKILL
    assert first.error == "PeerLostError" and "rank 1 was lost" in first.text


def test_without_a_process_group_the_sentence_says_what_to_do():
    with pytest.raises(fb.LocalError, match=r"comm_hook: call torch.distributed.init_process_group\(\) first"):
        partial(comm_hook, "dense")()


def test_a_refused_gradient_leaves_ddp_able_to_go_on_as_if_it_had_not_been():
    def act(process: ProcessInfo) -> list:
        join(process)

        def end(fault: bool) -> list:
            model, state = ddp("lbgm+topk@feedback=outside,threshold=0.9", warmup=1)
            seen = []
            for step in range(5):
                if fault and step in (0, 3):
                    x = torch.full((2, 12), torch.nan if process.rank else 1.0)
                    model.zero_grad()
                    seen.append(said(lambda x=x: model(x).sum().backward()))
                    seen.append([float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None])
                inner_step(model, process.rank, step)
            return [seen, digest(model), state.sent_bytes, state.steps]

        return [end(False), end(True)]

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    for rank, outcome in enumerate(outcomes):
        (_, *plain), ((refused, zeros, again, more_zeros), *repaired) = outcome.value
        assert repaired == plain
        assert zeros == more_zeros == [0.0] * 8
        words = "Sender.send: "
        begin = f"LocalError: {words}" if rank else f"PeerLostError: rank 1 refused: {words}"
        assert refused.startswith(begin) and again.startswith(begin)


def test_states_of_anything_else_are_refused_in_a_sentence():
    def act(process: ProcessInfo) -> list:
        join(process)
        model, state = ddp("topk")
        for step in range(2):
            inner_step(model, process.rank, step)
        good = state.state_dict()
        junk = [*JUNK, {**good, "links": []}, {**good, "links": [3, 4]}, {**good, "links": [{}, {"sender": "x"}]}]
        before = repr(good)
        seen = [said(lambda x=x: state.load_state_dict(x)) for x in junk]  # type: ignore[arg-type]
        assert repr(state.state_dict()) == before
        _, fresh = ddp("topk")
        seen += [said(lambda x=x: fresh.load_state_dict(x)) for x in JUNK]  # type: ignore[arg-type]
        fresh.load_state_dict(good)
        assert fresh.state_dict().keys() == good.keys()
        fresh.load_state_dict({})
        assert fresh.state_dict() == {}
        return seen

    (outcome,) = run_all(act, processes(1))
    assert outcome.code == 0, outcome
    assert [x for x in outcome.value if not x.startswith("LocalError: load_state_dict: ")] == []


def test_a_method_may_be_given_as_text_or_as_a_codec():
    def act(process: ProcessInfo) -> list:
        join(process)
        same = comm_hook(
            fb.methods.build("topk@fraction=0.1") if process.rank else "topk@fraction=0.1", timeout=TIMEOUT
        )
        return [same[0].steps, said(lambda: comm_hook(f"topk@fraction=0.{process.rank + 1}", timeout=TIMEOUT))]

    first, second = run_all(act, processes(2))
    assert first.value == second.value
    assert first.value[1].endswith("method differs: rank 0 has topk@fraction=0.1; rank 1 has topk@fraction=0.2")
