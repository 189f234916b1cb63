"""Laws of float buffers under methods that compress parameters only: buffers travel beside them, and are averaged."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import fewbits as fb
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import EpochBroadcast, EpochSubscriber
from fewbits.wire.frame import HEADER_BYTES

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
METHODS = {
    "intrinsic@dim=16,local=outside": 4 * 16,
    "intrinsic@dim=16,mode=time-varying,epoch=2,local=outside": 4 * 16,
    "intrinsic+topk@dim=16,mode=k-subspace,k=3,epoch=2,local=outside,down=dense": None,
    "intrinsic@dim=16,down=changes": 4 * 16,
    "intrinsic+topk@dim=16,mode=k-subspace,k=3,epoch=2,down=changes": None,
    "fetchsgd@rows=3,columns=50,k=20": 4 * 150,
    "median+intrinsic@dim=16,mode=k-subspace,k=2,local=outside": 4 * 16,
}
MASK = torch.full((5, 5), float("-inf")).triu(1)


def normed():
    layers = [nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6), nn.BatchNorm1d(6, affine=False)]
    return nn.Sequential(*layers, nn.Linear(6, 4))


class Odd(nn.Module):
    """Buffers of all kinds, of which the last two change in training."""

    def __init__(self):
        super().__init__()
        self.layers = normed()
        self.register_buffer("causal", MASK.clone())
        self.register_buffer("table", torch.linspace(-3, 3, 700).sin())
        self.register_buffer("chosen", torch.arange(8) % 2 == 0)
        self.register_buffer("order", torch.arange(8))
        self.register_buffer("low", torch.ones(3, dtype=torch.float16), persistent=False)
        self.register_buffer("wide", torch.ones(3, dtype=torch.float64), persistent=False)
        self.register_buffer("center", torch.full((8,), 0.3))
        self.register_buffer("scalar", torch.tensor(2.0))

    def forward(self, x):
        if self.training:
            self.center.mul_(0.9).add_(0.1 * x.mean(0))
            self.scalar.add_(0.25)
        return self.layers(x - self.center)


MODELS = {
    "batch norms": normed,
    "odd": Odd,
    "spectral": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 16)), nn.Linear(16, 4)),
    "hook": lambda: nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.BatchNorm1d(16), nn.Linear(16, 4)),
}


def made(kind):
    torch.manual_seed(0)
    return MODELS[kind]()


def train(model, number, steps=2):
    """Local steps on the client's own inputs, whose means and scales differ."""
    generator = torch.Generator().manual_seed(number)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        x = number + (1 + number) * torch.randn(12, 8, generator=generator)
        nn.functional.cross_entropy(model(x), torch.arange(12) % 4).backward()
        optimizer.step()


def play(kind, method, rounds=5, clients=3):
    """Rounds in which one client is away now and then; yields the server and this round's frames and models."""
    server = fb.Server(made(kind), method, fb.Key(0))
    ends = [fb.Client(made(kind), method, fb.Key(1 + i), number=i) for i in range(clients)]
    for round in range(rounds):
        present = [i for i in range(clients) if i != 2 or round % 3 == 0]
        server.expect(present)
        frames, before = {}, values(server.model)
        for i in present:
            ends[i].receive(server.bundle(i))
            same_floats(ends[i].model, server.model, exact="fetchsgd" not in method and "changes" not in method)
            train(ends[i].model, i)
            frames[i] = ends[i].reply()
        trained = {i: values(ends[i].model) for i in present}
        for i in present:
            assert server.accept(i, frames[i], 1.0) is not None, server.reasons
        server.step()
        yield server, before, trained, frames


def values(model):
    return {name: x.detach().clone() for name, x in [*model.named_parameters(), *model.named_buffers()]}


def same_floats(one, other, exact):
    """Equal bits; a downlink of differences may miss the last one until the next round."""
    atol, rtol = (0, 0) if exact else (1e-6, 1e-6)
    theirs = dict(other.named_buffers())
    for name in fb.factor.shared(other):
        if name in theirs:
            torch.testing.assert_close(one.get_buffer(name), theirs[name], atol=atol, rtol=rtol)
    for x, y in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=rtol)


def moving(model):
    """Names of the float buffers that travel, except unit vectors."""
    names = set(dict(model.named_buffers())) & set(fb.factor.shared(model))
    return sorted(name for name in names if name.rpartition(".")[2] not in ("_u", "_v", "weight_u", "weight_v"))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_buffers_are_the_mean_of_the_clients_and_the_same_at_all_ends(method, kind):
    for server, before, trained, _ in play(kind, method):
        for name in moving(server.model):
            every, now = torch.stack([found[name] for found in trained.values()]), server.model.get_buffer(name)
            if "median" in method:
                assert bool(((every.amin(0) - 1e-6 <= now) & (now <= every.amax(0) + 1e-6)).all())
            else:
                torch.testing.assert_close(now, every.mean(0), rtol=1e-5, atol=1e-6)
        assert any(not torch.equal(before[name], p) for name, p in server.model.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_constants_keep_their_bits_and_cost_nothing_but_the_first_model(method):
    """An update holds the compressed parameters, and of the buffers only what training changed."""
    frames = []
    for server, _, _, replies in play("odd", method):
        frames.append(replies[0])
        assert torch.equal(server.model.table, made("odd").table) and torch.equal(server.model.causal, MASK)
        later = len(server.bundle(0))
    if METHODS[method] is not None:
        changed = 2 * (12 + 6) + 8 + 1
        for frame in frames:
            places = -(-(changed + 700) // 8) + 8  # a map of places at most, and their count
            assert 0 <= len(frame) - HEADER_BYTES - METHODS[method] - 4 * changed <= places
    assert later < 1400 + (4 * 700 if "k-subspace" in method else 0), "700 numbers of the table would be 2800 bytes"


@pytest.mark.parametrize("method", METHODS)
def test_batch_norm_statistics_cost_four_bytes_a_number(method):
    with_it = sum(len(f) for *_, frames in play("batch norms", method) for f in frames.values())
    MODELS["plain"] = lambda: nn.Sequential(nn.Linear(8, 12), nn.GroupNorm(1, 12), nn.Linear(12, 6), nn.Linear(6, 4))
    without = sum(len(f) for *_, frames in play("plain", method) for f in frames.values())
    count = sum(len(frames) for *_, frames in play("plain", method))
    assert (with_it - without) / count == pytest.approx(4 * 36 + 1, abs=4)


@pytest.mark.parametrize("kind", ["spectral", "hook"])
@pytest.mark.parametrize("method", METHODS)
def test_unit_vectors_are_those_of_the_mean_of_the_weights(method, kind):
    for server, *_ in play(kind, method, rounds=4):
        vectors = [b for name, b in server.model.named_buffers() if name.endswith(("_u", "_v"))]
        assert len(vectors) == 2 and all(float(v.norm()) == pytest.approx(1, abs=1e-5) for v in vectors)
    model = server.model.eval()
    model(torch.zeros(2, 8))  # the hook computes its weight here
    assert float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("local", ["inside", "outside"])
def test_masks_cover_buffers_too_and_noise_does_not_reach_them(local):
    x = [(torch.randn(12, 8), torch.arange(12) % 4) for _ in range(3)]
    method, step = f"intrinsic@dim=16,local={local}", fb.LocalSGD(lr=0.1)
    result = fb.federate(made("batch norms"), x, f"masked+{method}", 2, local=step)
    assert result.ledger.frame_bytes["up"] >= 2 * 3 * (HEADER_BYTES + 4 * (16 + 36))
    for share in ("local", "central"):
        with pytest.raises(fb.LocalError, match=r"dp: noise would spoil the float buffers that travel: 1.running_mean"):
            fb.federate(made("batch norms"), x, f"dp+{method},share={share}", 2, local=step)


@pytest.mark.parametrize("method", METHODS)
def test_a_changing_buffer_of_unknown_kind_is_named_once(method):
    for server, *_ in play("odd", method):
        pass
    assert sorted(note.split()[1] for note in server.notes) == ["center", "scalar"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_saved_buffer_of_another_float_type_is_refused_by_name(method, dtype):
    model = made("batch norms")
    model.register_buffer("odd_one", torch.ones(3, dtype=dtype))
    with pytest.raises(fb.LocalError, match=r"odd_one is torch\.\w+; cast .* or register it with persistent=False"):
        fb.Server(model, method, fb.Key(0))


def test_a_round_without_updates_leaves_buffers_to_the_bit():
    for server, *_ in play("odd", "intrinsic@dim=16"):
        before = copy.deepcopy(server.model.state_dict())
        server.step()
        assert all(torch.equal(x, before[name]) for name, x in server.model.state_dict().items())


@pytest.mark.parametrize("mode", ["static", "time-varying"])
def test_a_publisher_that_was_loaded_again_has_the_same_buffers(mode):
    space = IntrinsicSpace(dim=4, mode=mode, epoch=3)
    spec, generator = fb.Spec((20,)), torch.Generator().manual_seed(0)
    server = EpochBroadcast(space, spec, fb.Key(0), plain=6)
    server.publish({"theta_e": torch.randn(20, generator=generator)})
    client = EpochSubscriber(space, spec, plain=6)
    for _ in range(8):
        held = client.receive(server.bundle(client.version or None))["theta_e"]
        late = EpochSubscriber(space, spec, plain=6).receive(server.bundle(None))["theta_e"]
        again = EpochBroadcast(space, spec, fb.Key(0), plain=6)
        again.load(server.dump())
        for found in (late, again.value["theta_e"], server.value["theta_e"]):
            assert torch.equal(held, found)
        plain = torch.randn(6, generator=generator)
        server.publish({"s": torch.randn(4, generator=generator), "plain": plain})
        torch.testing.assert_close(server.current["plain"], plain)
    with pytest.raises(fb.WireError, match="another codec"):
        EpochSubscriber(space, spec, plain=5).receive(server.bundle(None))


@pytest.mark.parametrize("plain", [-1, 21])
def test_plain_numbers_are_some_of_theta(plain):
    with pytest.raises(fb.LocalError, match=f"plain must be from 0 to 20, the numbers of theta; got {plain}"):
        EpochBroadcast(IntrinsicSpace(dim=4), fb.Spec((20,)), fb.Key(0), plain=plain)


def test_vectors_of_an_objective_do_not_fit_a_subspace():
    with pytest.raises(fb.LocalError, match=r"cannot carry the 1 vectors, as long as the model, that Scaffold\(\)"):
        fb.Server(made("batch norms"), "intrinsic+scaffold@dim=8,local=outside", fb.Key(0), total_weight=9)
