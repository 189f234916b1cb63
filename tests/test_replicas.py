"""Replicas of one model in one process: the same bits at all of them after every outer step, whatever the codec."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import Replicas, Streaming
from fewbits.replicas import Terms, optimizer_of
from fewbits.replicas.tensors import ReplicaTensors, fragments_of
from fewbits.rng import Key

KEY = Key(3)
JUNK = [[1], 3, "x", None, {"facts": None}, {"facts": {"method": torch.zeros(2)}}, {"facts": 3.0}]
CODECS = [
    "dense",
    "fedpaq@bits=4",
    "topk@fraction=0.05",
    "randk",
    "signsgd",
    "lbgm",
    "lbgm+topk@feedback=outside",
    "predict",
    fb.ErrorFeedback(fb.LowRank(2)),
    fb.Subspace(20),
    fb.Delta(fb.TopK(0.1)),
    "deadzone",
]


def net() -> nn.Module:
    """With BatchNorm: float buffers and an integer one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def train(model: nn.Module, rank: int, step: int) -> None:
    """A small step that differs from rank to rank."""
    generator = KEY.fold("train", rank, step).generator()
    for p in model.parameters():
        p.data.add_(0.01 * torch.randn(p.shape, generator=generator).to(p.dtype))
    with torch.no_grad():
        model(torch.randn(6, 12, generator=generator).to(next(model.parameters()).dtype))


def play(replicas: Replicas, models: list[nn.Module], steps: range) -> list[list[bytes]]:
    """The messages of each outer step."""
    seen = []
    for step in steps:
        for rank, model in enumerate(models):
            train(model, rank, step)
        if replicas.step():
            seen.append(replicas.messages)
    return seen


def same_bits(models: list[nn.Module]) -> bool:
    first, *others = [{name: x.clone() for name, x in model.state_dict().items()} for model in models]
    return all(torch.equal(x, other[name]) for other in others for name, x in first.items())


def ranks(size: int = 3, model: nn.Module | None = None) -> list[nn.Module]:
    return [copy.deepcopy(model or net()) for _ in range(size)]


@pytest.mark.parametrize("method", CODECS, ids=str)
def test_replicas_have_the_same_bits_after_fifty_outer_steps(method):
    models = ranks()
    replicas = Replicas(models, method, every=1)
    play(replicas, models, range(50))
    assert same_bits(models)
    legs = 2 if method == "dense" else 1  # slices to their owners, and means to all
    assert replicas.ledgers[1].messages == {"up": 100 * legs, "down": 100 * legs}


@pytest.mark.parametrize("method", ["dense", "lbgm+topk", "fedpaq@bits=4"])
def test_the_number_of_threads_changes_no_bit(method):
    def after(threads: int) -> list[bytes]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model = nn.Linear(700, 150)
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(torch.from_numpy(KEY.fold(name).normal(p.numel())).view(p.shape))
            models = ranks(3, model)
            replicas = Replicas(models, method, every=1)
            for step in range(3):
                for rank, each in enumerate(models):
                    noise = KEY.fold(rank, step).normal(700 * 150)
                    each.weight.data.add_(torch.from_numpy(noise).view(150, 700), alpha=0.01)
                replicas.step()
            return [x.numpy().tobytes() for x in models[0].state_dict().values()]
        finally:
            torch.set_num_threads(before)

    assert after(1) == after(2)


def test_the_dense_outer_step_is_dilocos_box():
    """Douillard et al. 2023, Algorithm 1, in NumPy: float32 sums in the order of ranks, then torch's Nesterov."""
    models = ranks(3, nn.Linear(5, 2))
    start = np.concatenate([p.detach().numpy().ravel() for p in models[0].parameters()]).astype(np.float64)
    replicas = Replicas(models, every=2)
    theta, m = start.copy(), np.zeros_like(start)
    moved = [np.zeros_like(start) for _ in models]
    for step in range(6):
        for rank, model in enumerate(models):
            noise = KEY.fold(rank, step).normal(12) * 0.1
            moved[rank] += noise
            model.weight.data.add_(torch.from_numpy(noise[:10]).view(2, 5))
            model.bias.data.add_(torch.from_numpy(noise[10:]))
        if replicas.step():
            update = -np.mean(moved, axis=0)
            m = 0.9 * m + update
            theta = theta - 0.7 * (0.9 * m + update)
            moved = [np.zeros_like(start) for _ in models]
    mine = np.concatenate([p.detach().numpy().ravel() for p in models[2].parameters()])
    np.testing.assert_allclose(mine, theta, rtol=0, atol=1e-5)


def test_float_buffers_move_to_their_mean_and_integers_are_rank_0s():
    models = ranks()
    for rank, model in enumerate(models):
        model[1].num_batches_tracked.fill_(10 + rank)
        model[1].running_mean.fill_(float(rank))
    replicas = Replicas(models, "signsgd", every=1)
    assert [int(model[1].num_batches_tracked) for model in models] == [10, 10, 10]
    for rank, model in enumerate(models):
        model[1].num_batches_tracked.fill_(20 + rank)
        model[1].running_mean.fill_(3.0 * rank)
    replicas.step()
    assert [int(model[1].num_batches_tracked) for model in models] == [20, 20, 20]
    assert [model[1].running_mean.unique().tolist() for model in models] == [[3.0]] * 3
    assert bytes(replicas.messages[0]).endswith((20).to_bytes(8, "little"))  # behind rank 0's frame


def test_half_precision_replicas_move_by_what_they_trained():
    models = ranks(2, net().to(torch.bfloat16))
    before = [p.detach().clone() for p in models[0].parameters()]
    replicas = Replicas(models, "dense", every=1, optimizer=fb.ServerSGD())
    replicas.step()  # nothing was trained: rounding is no update
    assert all(torch.equal(a, b) for a, b in zip(before, models[1].parameters(), strict=True))
    play(replicas, models, range(3))
    assert same_bits(models)


def test_fragments_travel_in_turn_and_each_is_equal_after_its_own():
    models = ranks()
    replicas = Replicas(models, "topk@fraction=0.2", every=4, streaming=Streaming(fragments=2))
    parts = fragments_of(ReplicaTensors(models[0]), 2)
    assert sum(parts, ()) == tuple(ReplicaTensors(models[0]).shared)  # no tensor is left out
    turns = []
    for step in range(8):
        for rank, model in enumerate(models):
            train(model, rank, step)
        if replicas.step():
            equal = [
                all(torch.equal(tensors[0][name], x[name]) for x in tensors[1:] for name in names)
                for names in parts
                for tensors in [[ReplicaTensors(model).shared for model in models]]
            ]
            turns.append((step + 1, equal))
    assert turns == [(2, [True, False]), (4, [False, True]), (6, [True, False]), (8, [False, True])]


def test_with_a_delay_a_replica_keeps_what_it_learned_meanwhile():
    """theta' = theta - mean(theta - sent), and now = theta' + (now - sent), in NumPy."""
    models = ranks(2, nn.Linear(4, 1, bias=False))
    start = models[0].weight.detach().numpy().ravel().astype(np.float64)
    replicas = Replicas(models, "dense", every=3, optimizer=fb.ServerSGD(), streaming=Streaming(delay=2))
    theta, now, sent = start.copy(), [start.copy() for _ in models], []
    landed = []
    for step in range(1, 13):
        for rank, model in enumerate(models):
            noise = 0.1 * KEY.fold(rank, step).normal(4)
            model.weight.data.add_(torch.from_numpy(noise).view(1, 4))
            now[rank] += noise
        if replicas.step():
            landed.append(step)
        if step % 3 == 0:
            sent = [x.copy() for x in now]
        if step > 3 and step % 3 == 2:
            theta = theta - np.mean([theta - x for x in sent], axis=0)
            now = [theta + (x - y) for x, y in zip(now, sent, strict=True)]
    assert landed == [5, 8, 11]
    np.testing.assert_allclose(replicas.values()["weight"].numpy().ravel(), theta, rtol=0, atol=1e-5)
    for model, expected in zip(models, now, strict=True):
        np.testing.assert_allclose(model.weight.detach().numpy().ravel(), expected, rtol=0, atol=1e-5)
    with pytest.raises(fb.LocalError, match="a frame travels; ask again once it was used, 2 steps later"):
        replicas.state_dicts()


def test_a_resumed_run_gives_the_same_frames_and_bits():
    def begin() -> tuple[list[nn.Module], Replicas]:
        models = ranks()
        return models, Replicas(models, "lbgm+topk@feedback=outside,threshold=0.9", every=3, key=Key(8))

    models, replicas = begin()
    play(replicas, models, range(7))
    file = io.BytesIO()
    torch.save([replicas.state_dicts(), [model.state_dict() for model in models]], file)
    expected, sent = play(replicas, models, range(7, 16)), replicas.sent_bytes
    ends = [model.state_dict() for model in models]

    models, replicas = begin()
    file.seek(0)
    states, weights = torch.load(file, weights_only=True)
    for model, values in zip(models, weights, strict=True):
        model.load_state_dict(values)
    replicas.load_state_dicts(states)
    assert play(replicas, models, range(7, 16)) == expected
    assert replicas.sent_bytes == sent
    for model, end in zip(models, ends, strict=True):
        assert all(torch.equal(x, end[name]) for name, x in model.state_dict().items())


def test_a_state_of_another_run_is_refused_and_changes_nothing():
    models = ranks(2)
    replicas = Replicas(models, "topk", every=1)
    play(replicas, models, range(2))
    states = replicas.state_dicts()
    before = repr(replicas.state_dicts())
    broken = {**states[0], "fragments": [{**states[0]["fragments"][0], "theta": torch.zeros(3)}]}  # type: ignore[index]
    damaged = copy.deepcopy(states[0])
    damaged["fragments"][0]["sender"][20] += 1  # type: ignore[index]
    for state, words in [
        ({}, "'facts' is of type NoneType"),
        ({**states[0], "facts": {**states[0]["facts"], "every": "9"}}, "every is 1; that of the state is 9"),  # type: ignore[dict-item]
        (states[1], "rank is 0; that of the state is 1"),
        ({**states[0], "steps": -1}, "'steps' must be a whole number"),
        (broken, r"expected torch.float32 of shape \(.*\); got torch.float32 of shape \(3,\)"),
        (damaged, "checksum"),
        *((junk, "load_state_dict: ") for junk in JUNK),
        *(({**states[0], "fragments": junk}, "load_state_dict: ") for junk in (*JUNK, [{}], [[]])),
        *(
            ({**states[0], "fragments": [{**states[0]["fragments"][0], name: junk}]}, "load_state_dict: ")  # type: ignore[index]
            for name in ("theta", "sender", "receivers", "moments", "rounds")
            for junk in (
                *JUNK,
                [None],
                ["x"],
                torch.zeros(2, 2),
                torch.zeros(3, device="meta"),
                torch.eye(2).to_sparse(),
            )
        ),
        *(({**states[0], name: 10**400}, "must be a whole number in 0..") for name in ("steps", "exchanges", "rank")),
        *(({**states[0], "sums": junk}, "load_state_dict: ") for junk in (*JUNK, {"frame_bytes": {"up": -1}})),
    ]:
        with pytest.raises(fb.LocalError, match=words):
            replicas.load_state_dicts([state, states[1]])
        assert repr(replicas.state_dicts()) == before


def test_states_are_loaded_for_all_ranks_or_for_none():
    models = ranks(3)
    replicas = Replicas(models, "lbgm+topk", every=1, optimizer=fb.ServerSGD(momentum=0.5))
    play(replicas, models, range(2))
    early, theirs = replicas.state_dicts(), copy.deepcopy(replicas.state_dicts()[1])
    play(replicas, models, range(2, 4))
    states = replicas.state_dicts()
    before = repr(states)
    theirs_now = copy.deepcopy(states[1])
    theirs_now["fragments"][0]["theta"][0] += 1  # type: ignore[index]
    moments = copy.deepcopy(states[2])
    moments["fragments"][0]["moments"][0][3] += 1  # type: ignore[index]
    ends = copy.deepcopy(states[2])
    ends["fragments"][0]["receivers"] = early[2]["fragments"][0]["receivers"]  # type: ignore[index]
    for given, words in [
        ([states[0], states[1], {}], "'facts' is of type NoneType"),
        ([states[0], theirs, states[2]], "rank 0's state is of step 4; that of rank 1 of step 2"),
        ([states[0], theirs_now, states[2]], "in fragment 0, theta of rank 0's state and of rank 1's differ"),
        ([states[0], states[1], moments], "in fragment 0, the optimizer's moments of rank 0's state and of rank 2's"),
        ([states[0], states[1], ends], "in fragment 0, the ends of links of rank 0's state and of rank 2's differ"),
        (states[:2], "3 ranks need as many states; got 2"),
        *((junk, "Replicas: expected a list of states; got") for junk in ("abc", None, 3)),
    ]:
        with pytest.raises(fb.LocalError, match=words):
            replicas.load_state_dicts(given)  # type: ignore[arg-type]
        assert repr(replicas.state_dicts()) == before


def test_a_damaged_frame_names_its_rank_and_moves_nothing():
    models = ranks(2)
    replicas = Replicas(models, "lbgm@threshold=0", every=1)
    play(replicas, models, range(2))
    for rank, model in enumerate(models):
        train(model, rank, 9)
    replica = replicas._replicas[0]
    part = replica.outer[0]
    frames = replica.frames(0, [each.message(0) for each in replicas._replicas])
    wrong = bytearray(frames[1])
    wrong[30] ^= 1
    theta, ends = part.state.theta.clone(), part.link.dump()
    with pytest.raises(fb.WireError, match="the frame of rank 1: checksum"):
        part.prepare([frames[0], bytes(wrong)])()
    assert torch.equal(part.state.theta, theta) and part.link.dump() == ends
    part.prepare(frames)()  # the right one is still taken
    assert part.state.rounds == 3


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("fedpara", "factors the model; factor it yourself"),
        ("intrinsic", "needs a server with its subspaces"),
        ("fedper", "leaves layers with their clients"),
        ("dp", "hides updates from a server"),
        ("masked", "hides updates from a server"),
        ("median", "guards a server against its clients"),
        ("scaffold", "changes the loss that clients train with"),
        ("fetchsgd", "steps at a server on sums of sketches"),
        ("nonsense", "unknown method 'nonsense'"),
    ],
)
def test_methods_that_need_a_server_are_refused(method, words):
    with pytest.raises(fb.LocalError, match=words):
        Replicas(ranks(2), method)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every must be a whole number, 1 or more; got 0"),
        ({"every": 2.5}, "every must be a whole number"),
        ({"every": 2, "streaming": Streaming(3)}, "delay must be less than every / fragments; got every=2"),
        ({"streaming": Streaming(7)}, "fragments=7, but the model has only 6 trainable parameters"),
        ({"every": 6, "streaming": Streaming(2, delay=3)}, "delay must be less than every / fragments"),
        ({"streaming": 2}, "streaming must be a Streaming"),
        ({"streaming": Streaming(delay=2)}, "no saved buffers of integers"),
        ({"optimizer": "adam"}, "optimizer must be a step"),
        ({"key": 3}, "key must be a Key"),
    ],
)
def test_arguments_out_of_range_are_refused(options, words):
    with pytest.raises(fb.LocalError, match=words):
        Replicas(ranks(2), **options)


def test_models_that_cannot_be_replicas_are_refused():
    with pytest.raises(fb.LocalError, match=r"rank 0 has 0.weight, float32 \[16, 12\]; rank 1 has 0.weight"):
        Replicas([net(), nn.Sequential(nn.Linear(12, 17))])
    with pytest.raises(fb.LocalError, match="no trainable parameter"):
        Replicas([nn.Linear(2, 2).requires_grad_(False)])
    with pytest.raises(fb.LocalError, match="a model of its own"):
        Replicas([net()] * 2)
    with pytest.raises(fb.LocalError, match="weight must hold all of its numbers"):
        Replicas([nn.Linear(2, 2, device="meta")])
    with pytest.raises(fb.LocalError, match="weight must be of floats"):
        Replicas([nn.Linear(2, 2, dtype=torch.complex64)])


def test_a_value_that_is_not_finite_is_named():
    models = ranks(2)
    replicas = Replicas(models, "dense", every=1)
    models[1][0].weight.data[0, 0] = torch.nan
    with pytest.raises(fb.LocalError, match=r"0\.weight has 1 NaN"):
        replicas.step()


def test_frozen_tensors_and_unsaved_buffers_stay():
    def build() -> nn.Module:
        model = net()
        model[3].requires_grad_(False)
        model.register_buffer("mask", torch.full((2,), -torch.inf))
        model.register_buffer("scratch", torch.zeros(2), persistent=False)
        return model

    models = [build(), build()]
    replicas = Replicas(models, "dense", every=1)
    models[1].scratch.fill_(5.0)
    replicas.step()
    assert set(ReplicaTensors(models[0]).shared) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "buffer:1.running_mean", "buffer:1.running_var"
    }  # fmt: skip
    assert models[1].scratch.tolist() == [5.0, 5.0]


def test_factors_and_double_precision_travel():
    factored = fb.fedpara(nn.Sequential(nn.Linear(12, 40), nn.Linear(40, 4)), gamma=0.3).double()
    models = ranks(2, factored)
    replicas = Replicas(models, "topk@fraction=0.2,momentum=0.9", every=1)
    play(replicas, models, range(3))
    assert same_bits(models)
    assert torch.equal(models[0][0].weight, models[1][0].weight)  # the products, too
    state = replicas.state_dicts()[0]["fragments"][0]  # type: ignore[index]
    assert state["theta"].dtype == state["moments"][0].dtype == torch.float64


def test_the_outer_optimizer_is_the_methods_and_for_a_codec_dilocos():
    diloco = fb.ServerSGD(lr=0.7, momentum=0.9, nesterov=True)
    assert optimizer_of(fb.TopK(0.1), None) == diloco
    assert optimizer_of("topk", None) == fb.ServerSGD()
    assert optimizer_of("fedadam", None) == fb.learn.FedAdam()
    assert optimizer_of("topk@momentum=0.5", None) == fb.ServerSGD(momentum=0.5)
    assert Terms.of("fedadam", fb.ServerSGD(lr=0.4), every=2).optimizer == fb.ServerSGD(lr=0.4)
