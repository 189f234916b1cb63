"""Outer steps with one random partner: NoLoCo's formula, the same frames in one process and in many, and states."""

from __future__ import annotations

import copy
import io
from fractions import Fraction

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, RandomPartner, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.errors import FewbitsError
from fewbits.replicas.partners import partner_of
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

NOLOCO = fb.ServerSGD(lr=0.7, momentum=0.5)


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def play(replicas: Replicas, models: list[nn.Module], steps: range) -> None:
    for step in steps:
        for rank, model in enumerate(models):
            inner_step(model, rank, step, lr=0.05)
        replicas.step()


def vectors(models: list[nn.Module]) -> torch.Tensor:
    return torch.stack([torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_partners_are_each_others_and_at_most_one_rank_is_alone(size):
    seen = set()
    for exchange in range(40):
        partners = [partner_of(fb.Key(3), exchange, rank, size) for rank in range(size)]
        assert [partners[partner] for partner in partners] == list(range(size))
        assert sum(partner == rank for rank, partner in enumerate(partners)) == size % 2
        seen |= set(enumerate(partners))
    assert len(seen) == size * (size if size % 2 else size - 1)  # everybody meets everybody


@pytest.mark.parametrize("pull", [0.4, 1.0, 1.6])
def test_the_dense_step_is_nolocos_formula(pull):
    """Kolehmainen et al. 2025: m = alpha m + beta mean(u) + gamma (theta - mean(theta)), theta -= m; in float64."""
    size, alpha, beta = 5, 0.5, 0.7
    models = [nn.Linear(6, 3) for _ in range(size)]
    key, generator = fb.Key(7), torch.Generator().manual_seed(1)
    replicas = Replicas(models, RandomPartner(pull=pull), every=1, key=key)
    theta = vectors(models).double()
    m = torch.zeros_like(theta)
    for exchange in range(6):
        noise = torch.randn(size, theta.shape[1], generator=generator)
        for model, change in zip(models, noise, strict=True):
            nn.utils.vector_to_parameters(vectors([model])[0] + change, model.parameters())
        u = theta - vectors(models).double()
        replicas.step()
        pairs = [[rank, partner_of(key, exchange, rank, size)] for rank in range(size)]
        mean = torch.stack([u[pair].mean(0) for pair in pairs])
        apart = theta - torch.stack([theta[pair].mean(0) for pair in pairs])
        m = alpha * m + beta * mean + beta * pull * apart
        theta = theta - m
        torch.testing.assert_close(vectors(models).double(), theta, rtol=1e-5, atol=1e-5)
    expected = float((theta - theta.mean(0)).norm())
    assert replicas.consensus_distance() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("codec", [fb.Raw(), fb.chain(fb.Quantize(bits=4), fb.Rans()), fb.TopK(0.1)], ids=str)
def test_whatever_the_codec_the_mean_of_all_models_moves_by_the_exact_mean(codec):
    models = [nn.Linear(9, 4) for _ in range(4)]
    replicas = Replicas(models, RandomPartner(codec, 0.5), every=1, optimizer=fb.ServerSGD())
    for step in range(5):
        before = vectors(models).double()
        for rank, model in enumerate(models):
            torch.nn.init.constant_(model.bias, rank + step)
        moved = before - vectors(models).double()
        replicas.step()
        torch.testing.assert_close(vectors(models).double().mean(0), (before - moved).mean(0), rtol=0, atol=1e-5)


def test_models_at_rest_meet_and_the_mean_is_one_model_that_is_counted():
    models = [net() for _ in range(3)]
    replicas = Replicas(models, "noloco@bits=8", every=1)
    play(replicas, models, range(3))
    apart = replicas.consensus_distance()
    for _ in range(30):
        replicas.step()
    assert replicas.consensus_distance() < 0.2 * apart
    sent, state = replicas.sent_bytes, replicas.state_dicts()[1]
    expected = vectors(models).mean(0)
    assert state["whose"] == "rank 1's own, one of 3"
    distance = replicas.average()
    assert distance > 0 == replicas.consensus_distance()
    torch.testing.assert_close(vectors(models), expected.expand(3, -1))
    assert len({digest(model) for model in models}) == 1
    assert [now - before for now, before in zip(replicas.sent_bytes, sent, strict=True)] == [
        2 * len(message) for message in replicas.messages
    ]
    assert replicas.state_dicts()[2]["whose"] == "the mean of 3 ranks"
    play(replicas, models, range(1))
    assert len({digest(model) for model in models}) == 3


def test_a_frame_goes_to_one_rank_and_a_rank_alone_sends_nothing():
    models = [net() for _ in range(3)]
    replicas = Replicas(models, "noloco", every=2)
    sent = [0, 0, 0]
    for step in range(8):
        play(replicas, models, range(step, step + 1))
        if step % 2:
            sent = [total + len(message) for total, message in zip(sent, replicas.messages, strict=True)]
            assert sum(not len(message) for message in replicas.messages) == 1
    assert replicas.sent_bytes == sent
    assert sum(ledger.messages["up"] for ledger in replicas.ledgers) == 8


def test_a_resumed_run_goes_on_with_the_same_bits():
    def begin() -> tuple[list[nn.Module], Replicas]:
        models = [net() for _ in range(3)]
        return models, Replicas(models, "noloco@pull=0.6", every=1)

    models, replicas = begin()
    play(replicas, models, range(4))
    file = io.BytesIO()
    torch.save([replicas.state_dicts(), [model.state_dict() for model in models]], file)
    play(replicas, models, range(4, 9))
    again, resumed = begin()
    file.seek(0)
    states, weights = torch.load(file, weights_only=True)
    for model, values in zip(again, weights, strict=True):
        model.load_state_dict(values)
    resumed.load_state_dicts(states)
    play(resumed, again, range(4, 9))
    assert [digest(model) for model in again] == [digest(model) for model in models]
    assert resumed.sent_bytes == replicas.sent_bytes


def test_a_wrong_state_or_a_value_that_is_not_finite_changes_nothing():
    models = [net() for _ in range(2)]
    replicas = Replicas(models, "noloco", every=1)
    play(replicas, models, range(2))
    states, weights = replicas.state_dicts(), [copy.deepcopy(model.state_dict()) for model in models]
    before = repr(states)
    damaged = copy.deepcopy(states[0])
    damaged["peers"]["1"]["sender"][20] += 1  # type: ignore[index]
    late = {**states[1], "steps": 9}
    for given, words in [
        ([states[1], states[1]], "rank is 0; that of the state is 1"),
        ([damaged, states[1]], "checksum"),
        ([states[0], late], "rank 0's state is of step 2; that of rank 1 of step 9"),
        ([{**states[0], "peers": {"7": {}}}, states[1]], "a peer is one of 1; got '7'"),
        ([{**states[0], "peers": {"1": 3}}, states[1]], "the ends of links are vectors of uint8"),
        ([{**states[0], "start": torch.zeros(2)}, states[1]], r"got torch.float32 of shape \(2,\)"),
    ]:
        with pytest.raises(fb.LocalError, match=words):
            replicas.load_state_dicts(given)
        assert repr(replicas.state_dicts()) == before
    models[1][0].weight.data[0, 0] = torch.nan
    with pytest.raises(fb.LocalError, match=r"0\.weight has 1 NaN"):
        replicas.step()
    assert repr(replicas.state_dicts()) == before
    models[1].load_state_dict(weights[1])
    assert replicas.step()


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (RandomPartner("topk"), {}, "RandomPartner sends differences to what the partner has: Delta around"),
        ("noloco", {"streaming": Streaming(2)}, "with a random partner the whole model travels at once"),
        ("noloco", {"streaming": Streaming(delay=1)}, "and training waits for it; got RandomPartner"),
        ("noloco@bits=2", {}, "use 3 bits or more"),
        ("noloco@gamma=1", {}, "method 'noloco' has no option 'gamma'"),
        (RandomPartner("fedpara"), {}, "method 'fedpara' factors the model"),
        (RandomPartner("noloco"), {}, "RandomPartner: 'noloco' has a random partner and its own step"),
    ],
)
def test_what_does_not_go_with_a_partner_is_refused_in_a_sentence(method, options, words):
    with pytest.raises(fb.LocalError, match=words):
        Replicas([net(), net()], method, **options)
    with pytest.raises(fb.LocalError, match=r"pull must be a number in \[1e-6, 1e6\]; got 0"):
        RandomPartner(pull=0)
    with pytest.raises(fb.LocalError, match="without a partner all ranks have the same model"):
        Replicas([net(), net()]).average()


def test_options_beyond_their_range_and_ranks_that_are_not_there_are_named():
    with pytest.raises(fb.LocalError, match="method must be a codec or a method; got RandomPartner"):
        RandomPartner(RandomPartner())
    for pull in (1e-300, 10**400, torch.nan):
        with pytest.raises(fb.LocalError, match="pull must be a number in"):
            RandomPartner(pull=pull)
    models = [nn.Linear(2, 2) for _ in range(2)]
    replicas = Replicas(models, RandomPartner(pull=Fraction(1, 2)), every=1)
    models[0].weight.data.add_(1)
    assert replicas.step() and replicas.values(1).keys() == {"weight", "bias"}
    for rank in (2, -1, True, "1"):
        with pytest.raises(fb.LocalError, match=r"Replicas\.values: "):
            replicas.values(rank)


def test_a_mean_beyond_the_range_of_floats_changes_nothing():
    models = [nn.Linear(2, 2) for _ in range(2)]
    replicas = Replicas(models, "noloco", every=1)
    for model in models:
        model.weight.data.fill_(3e38)
    before = repr(replicas.state_dicts()), [digest(model) for model in models]
    with pytest.raises(fb.WireError, match=r"the mean of 2 models would leave the range of torch\.float32"):
        replicas.average()
    assert (repr(replicas.state_dicts()), [digest(model) for model in models]) == before


def test_processes_send_what_one_process_plays_and_a_refusal_reaches_the_partner_alone():
    size, steps = 3, 7

    def act(process: ProcessInfo) -> list:
        join(process)
        model = net(seed=process.rank)  # rank 0's values are sent to all
        outer = OuterStep(model, "noloco", every=1, timeout=15.0)
        refused = ""
        for step in range(steps):
            inner_step(model, process.rank, step, lr=0.05)
            weight = model[0].weight.data  # type: ignore[index]
            kept = weight.clone()
            odd = step == 3 and process.rank == pair[0]
            if odd:
                weight[0, 0] = torch.nan
            try:
                outer.step()
            except FewbitsError as error:
                refused = f"{type(error).__name__}: {error}"
                weight.copy_(kept)
                outer.step()
        found = [refused, digest(model), outer.sent_bytes, outer.partner_distance > 0, outer.whose]
        return [*found, outer.average(), digest(model), outer.sent_bytes, outer.whose]

    key = fb.Key(0)
    pair = [rank for rank in range(size) if partner_of(key, 3, rank, size) != rank]
    models = [net() for _ in range(size)]
    replicas = Replicas(models, "noloco", every=1)
    play(replicas, models, range(steps))
    expected = [[digest(model), sent] for model, sent in zip(models, replicas.sent_bytes, strict=True)]
    apart = replicas.average()
    outcomes = run_all(act, processes(size))
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes
    for rank, outcome in enumerate(outcomes):
        refused, seen, sent, moved, whose, distance, mean, counted, last = outcome.value
        begin = (
            "" if rank not in pair else "LocalError" if rank == pair[0] else f"PeerLostError: rank {pair[0]} refused"
        )
        assert refused.startswith(begin) and bool(refused) == (rank in pair)
        assert [seen, sent] == expected[rank] and moved and distance == apart
        assert (mean, counted) == (digest(models[0]), replicas.sent_bytes[rank])
        assert (whose, last) == (f"rank {rank}'s own, one of 3", "the mean of 3 ranks")
