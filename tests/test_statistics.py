"""Running statistics under masks and noise: a masked sum of them is right at any size, and noise refuses them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.errors import LocalError
from fewbits.federated.server import Server
from fewbits.privacy import exact_words
from fewbits.privacy.pairwise_masking import BUFFER, MASKED, PairwiseMasking
from fewbits.spec import Spec, TreeSpec

CLIENTS, FEATURES = 5, 6
LOCAL = fb.LocalSGD(lr=0.05)


def data(offset=0.0, scale=1.0, size=20):
    """Equal clients, which weigh alike without masks, and a test set."""
    generator = torch.Generator().manual_seed(1)
    rule = torch.randn(FEATURES, 3, generator=generator)

    def some(n):
        z = torch.randn(n, FEATURES, generator=generator)
        return scale * z + offset, (z @ rule).argmax(1)

    return [some(size) for _ in range(CLIENTS)], some(200)


def filled(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (each for each in module.modules() if isinstance(each, nn.Linear)):
            linear.weight.copy_(0.3 * torch.randn(linear.weight.shape, generator=generator))
            linear.bias.zero_()  # torch draws it from its global generator
    return module


def first():
    return filled(nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 3)))


class Averaging(nn.Module):
    """Not torch's normalisation: a moving average of its own name, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(FEATURES))
        self.register_buffer("limits", torch.tensor([-1e6, 1e6]))  # a constant
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.level.lerp_(x.mean(0), 0.5)
        return self.head((x - self.level).clamp(*self.limits.tolist()))


MODELS = {"BatchNorm": first, "a moving average": lambda: filled(Averaging())}


def run(method, module, offset=0.0, scale=1.0, rounds=8, **more):
    clients, test = data(offset, scale)
    return fb.federate(module, clients, method, rounds, test=test, local=LOCAL, processes=1, **more)


@pytest.mark.parametrize("offset,scale", [(0.0, 1.0), (200.0, 1.0), (-1e4, 30.0), (3e6, 1e5), (0.0, 1e-5)])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["masked", "masked@bits=20"])
def test_masked_statistics_are_those_of_the_plain_sum_at_any_size_of_the_inputs(offset, scale, model, method):
    """After one round, so that parameters of another rounding do not move them; large gradients may be cut."""
    plain = run("dense", MODELS[model](), offset, scale, rounds=1).model
    masked = run(method, MODELS[model](), offset, scale, rounds=1)
    moved = False
    before = dict(MODELS[model]().named_buffers())
    for name, x in plain.named_buffers():
        found = dict(masked.model.named_buffers())[name]
        if x.is_floating_point():
            torch.testing.assert_close(found, x, rtol=2e-6, atol=1e-12)
            moved |= not torch.equal(x, before[name])
    assert moved and (masked.notes == [] or model != "BatchNorm")


def test_a_masked_run_on_inputs_far_from_zero_is_as_accurate_as_the_plain_one():
    plain, masked = (run(method, first(), 1e3, rounds=80) for method in ("dense", "masked"))
    assert plain.reports[-1].accuracy > 0.6
    assert masked.reports[-1].accuracy == pytest.approx(plain.reports[-1].accuracy, abs=0.08)  # cut statistics give 0.3
    assert masked.notes == []


def test_lost_clients_leave_the_statistics_of_the_others(monkeypatch):
    accept = Server.accept

    def damaged(self, who, frame, weight):
        return accept(self, who, bytes(frame)[: -1 if who == 2 else None], weight)

    monkeypatch.setattr(Server, "accept", damaged)
    plain, masked = (run(method, first(), 200.0, rounds=2) for method in ("dense", "masked"))
    assert [r.rejected for r in masked.reports] == [1, 1]
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(masked.model[0], name), getattr(plain.model[0], name))


def test_no_message_shows_statistics_and_all_words_are_used(monkeypatch):
    sent, hide = [], PairwiseMasking.hide

    def watched(self, tree, end, private):
        sent.append(({name: x.clone() for name, x in tree.items()}, hide(self, tree, end, private)))
        return sent[-1][1]

    monkeypatch.setattr(PairwiseMasking, "hide", watched)
    wide = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 300), nn.BatchNorm1d(300), nn.Linear(300, 3))
    run("masked@bits=20", filled(wide), 200.0, rounds=1)
    (_, a), (_, b) = sent[:2]
    assert list(a) == [BUFFER + MASKED, MASKED]
    for name, bits in ((BUFFER + MASKED, 48), (MASKED, 20)):
        top = a[name] / 2.0**bits
        assert float(top.min()) >= 0 and float(top.max()) < 1
        assert abs(float(top.mean()) - 0.5) < 0.05 and abs(float(top.std()) - 12**-0.5) < 0.02
        assert float((a[name] == b[name]).double().mean()) < 0.01
    statistics = torch.cat([x.reshape(-1) for name, x in sent[0][0].items() if name.startswith(BUFFER)])
    assert len(a[BUFFER + MASKED]) == exact_words.DIGITS * len(statistics)
    assert not bool((a[BUFFER + MASKED] == exact_words.digits(statistics)).any())


def test_values_without_words_are_refused_by_name():
    masking, tree = PairwiseMasking(), {BUFFER + "norm.running_var": torch.tensor([1.0, -1e20])}
    ends = [masking.client(number, 1, fb.Key(1 << 200).fold(number)) for number in (0, 1)]
    server = masking.server([0, 1], 1)
    for end in ends:
        server.advertised(end.number, end.advertise())
    for end in ends:
        server.shared(end.number, end.share(server.roster()))
    ends[0].open(server.delivery(0))
    with pytest.raises(LocalError, match=r"norm\.running_var changed by 1e\+20, and a masked sum .* up to 9\.22.e\+18"):
        masking.hide(tree, ends[0], fb.Key(1))
    with pytest.raises(LocalError, match=r"w has 1 NaN"):
        masking.hide({"w": torch.tensor([float("nan")])}, ends[0], fb.Key(1))


def test_clients_whose_statistics_are_too_large_are_skipped_and_the_others_count():
    clients, test = data()
    clients[1] = (clients[1][0] * 1e12, clients[1][1])  # a variance of 1e24
    result = fb.federate(first(), clients, "masked", 2, test=test, local=LOCAL, processes=1)
    assert [(r.clients, r.skipped) for r in result.reports] == [(CLIENTS - 1, 1)] * 2
    (note,) = [note for note in result.notes if "was skipped" in note]
    assert note.startswith("round 1: client 1 was skipped: 0.running_var changed by") and "9.223e+18" in note


@pytest.mark.parametrize("processes", [1, 2])
def test_parameters_that_masks_cut_are_counted_and_said(processes):
    clients, _ = data()
    result = fb.federate(first(), clients, "masked@largest=1e-3", 3, local=LOCAL, processes=processes)
    (note,) = result.notes
    head, count, tail = note.partition("masks cut ")
    assert head == "round 1: " and 0 < int(count and tail.split()[0]) <= CLIENTS * 100
    assert tail.endswith("raise it, as in masked+METHOD@largest=10")


def test_a_client_of_a_loop_by_hand_says_what_masks_cut():
    method = fb.methods.masked(largest=0.5)
    server = fb.Server(first(), method, fb.Key(0))
    clients = [fb.Client(first(), method, fb.Key(1 << 202).fold(c), number=c) for c in range(3)]
    for c in server.sample(clients=3, per_round=3):
        clients[c].receive(server.bundle(c))
        server.secure.advertised(c, clients[c].secure.advertise())
    for c in range(3):
        server.secure.shared(c, clients[c].secure.share(server.secure.roster()))
    for c in range(3):
        clients[c].secure.open(server.secure.delivery(c))
        with torch.no_grad():
            clients[c].model[1].bias[:2] += 2.0 if c == 1 else 0.25
            clients[c].model[0].running_mean += 1000.0 * (c + 1)
        server.accept(c, clients[c].reply(), weight=1)
    for c in server.secure.arrived:
        server.secure.revealed(c, clients[c].secure.reveal(server.secure.survivors()))
    bias = server.model[1].bias.detach().clone()
    server.step()
    assert not server.void and [len(client.notes) for client in clients] == [0, 1, 0]
    assert clients[1].notes[0].startswith("masks cut 2 changes of parameters")
    torch.testing.assert_close(server.model[0].running_mean, torch.full((FEATURES,), 2000.0))
    torch.testing.assert_close(server.model[1].bias[:2] - bias[:2], torch.full((2,), 1 / 3), atol=1e-5, rtol=0)


# the words


def numbers(seed, count=5):
    """float32 of any exponent from 2^-80 to 2^63, with some that cancel, and the edges."""
    key = fb.Key(seed)
    x = torch.from_numpy(key.normal(count)) * 2.0 ** torch.from_numpy(key.fold("e").below(140, count) - 80.0)
    x = x.clamp(-(2.0**63), 2.0**63).float()
    return torch.cat([x, -x[:2], x[:1] / 2**24, torch.tensor([0.0, 1.0, 2.0**63, -(2.0**63), 2.0**-60])])


@pytest.mark.parametrize("seed", range(40))
def test_words_give_the_sum_as_doubles_round_it(seed):
    """Of one value up to a step; of several up to the rounding of the result, whatever cancels in between."""
    x = numbers(seed)
    parts = torch.stack([exact_words.digits(one.reshape(1)) for one in x])
    assert float(parts.abs().max()) <= exact_words.BASE / 2 and torch.equal(parts, parts.round())
    for one, words in zip(x.double(), parts, strict=True):
        assert abs(float(exact_words.values(words)) - float(one)) <= exact_words.STEP / 2
    steps = sum(round(float(one / exact_words.STEP)) for one in x.double())  # Python's integers are exact
    found = float(exact_words.values(parts.sum(0)))
    assert found == pytest.approx(steps * exact_words.STEP, rel=1e-15, abs=0)


def test_words_hold_the_largest_sum_that_the_protocol_allows():
    most = 2**16 - 1
    encoding = exact_words.encoding(2 * most)
    assert encoding.step == 1 and encoding.top >= exact_words.BASE / 2
    words = encoding.encode(exact_words.digits(torch.tensor([exact_words.LARGEST, -exact_words.LARGEST])))
    total = (words * np.uint64(most)) & np.uint64(2**exact_words.BITS - 1)
    assert exact_words.values(encoding.decode(total, most)).tolist() == [
        most * exact_words.LARGEST,
        -most * exact_words.LARGEST,
    ]


def test_models_without_buffers_send_what_they_sent():
    masking, tree = PairwiseMasking(), TreeSpec((("w", Spec((3,))),))
    assert masking.spec(tree) == TreeSpec(((MASKED, Spec((3,), "float64")),))


# noise


REFUSED = {
    "BatchNorm": (first, ["0.running_mean", "0.running_var"]),
    "InstanceNorm": (lambda: nn.Sequential(nn.InstanceNorm1d(FEATURES, track_running_stats=True)), ["0.running_mean"]),
    "a moving average and a constant": (lambda: Averaging(), ["level", "limits"]),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", ["dp", "dp+topk", "dp+masked", "dp@share=central", "dp+fedadam"])
def test_noise_on_buffers_is_refused_at_the_start_by_their_names(kind, method):
    build, names = REFUSED[kind]
    module = nn.Sequential(build(), nn.Linear(3, 3)) if kind == "InstanceNorm" else build()
    made = fb.methods.named(method).for_round_size(CLIENTS)
    ways = [
        lambda: fb.Server(copy.deepcopy(module), made, fb.Key(0)),
        lambda: fb.Client(copy.deepcopy(module), made, fb.Key(1)),
    ]
    if kind != "InstanceNorm":
        ways.append(lambda: run(method, copy.deepcopy(module), rounds=1))
    for way in ways:
        with pytest.raises(LocalError, match="dp: noise would spoil the float buffers") as error:
            way()
        assert all(name in str(error.value) for name in names)
        assert "GroupNorm" in str(error.value) and "track_running_stats=False" in str(error.value)


def test_of_many_buffers_a_refusal_names_the_first():
    deep = nn.Sequential(*(nn.BatchNorm1d(FEATURES) for _ in range(20)), nn.Linear(FEATURES, 3))
    with pytest.raises(LocalError, match=r"0\.running_mean, .*1\.running_var and 36 more"):
        fb.Server(deep, "dp", fb.Key(0))


OUT = {
    "GroupNorm": lambda: nn.GroupNorm(2, FEATURES),
    "no running statistics": lambda: nn.BatchNorm1d(FEATURES, track_running_stats=False),
    "spectral norm, whose vectors are computed anew": lambda: nn.utils.parametrizations.spectral_norm(
        nn.Linear(FEATURES, FEATURES)
    ),
}


@pytest.mark.parametrize("kind", OUT)
def test_the_ways_out_run_under_noise_and_stay_finite(kind):
    module = filled(nn.Sequential(OUT[kind](), nn.Linear(FEATURES, 3)))
    result = run("dp@noise=0.3", module, rounds=3)
    assert all(torch.isfinite(x).all() for x in result.model.state_dict().values())
    assert [r.clients for r in result.reports] == [CLIENTS] * 3 and result.reports[-1].loss is not None


def test_a_private_batch_norm_may_stand_beside_noise():
    server = fb.Server(first(), "dp+fedper@private=0.*", fb.Key(0))
    assert "0.running_var" not in server.flat.travelling
