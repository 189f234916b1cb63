"""Laws of what travels of a user's module: constants, unit vectors, odd buffers, types, and who owns which memory."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fewbits as fb
from fewbits.learn import Node

pytestmark = [  # torch's older forms, which people still use
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
generator = torch.Generator().manual_seed(0)
CLIENTS = [(torch.randn(12, 8, generator=generator), torch.arange(12) % 4) for _ in range(4)]
TEXTS = [(torch.randint(0, 20, (12, 6), generator=generator), torch.arange(12) % 4) for _ in range(4)]
LOCAL = fb.LocalSGD(lr=0.2, batch_size=4)


def federate(model, method="dense", data=CLIENTS, rounds=2, **options):
    return fb.federate(model, data, method, rounds, local=LOCAL, **options)


def gossip(model, method="choco@bits=4", data=CLIENTS, rounds=2, **options):
    return fb.gossip(model, data, fb.topology.ring(len(data)), method, rounds, local=LOCAL, **options)


def seeded(build):
    torch.manual_seed(0)
    return build()


class Net(nn.Module):
    """A linear layer, and one buffer that `change` may change in training."""

    def __init__(self, buffer, change=None, **options):
        super().__init__()
        self.layer, self.change = nn.Linear(8, 4), change
        self.register_buffer("extra", buffer, **options)

    def forward(self, x):
        if self.training and self.change is not None:
            self.change(self, x)
        return self.layer(x)


def assign(net, x):
    net.extra = 0.5 * net.extra + 0.5 * x.mean(0)


def in_place(net, x):
    net.extra.mul_(0.5).add_(0.5 * x.mean(0))


def grow(net, x):
    net.extra = torch.cat([net.extra, x[0]])


def vanish(net, x):
    net.extra = None


def count(net, x):
    net.extra += 1


# --- Unit vectors


NORMED = {
    "parametrization": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 16)), nn.Linear(16, 4)),
    "hook": lambda: nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.Linear(16, 4)),
    "convolution": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.ConvTranspose1d(8, 5, 3), dim=1), nn.Flatten(), nn.Linear(15, 4)
    ),
}


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("play", [federate, gossip, lambda model, data: federate(model, "lbgm+topk", data=data)])
def test_a_mean_of_clients_leaves_spectral_norm_at_singular_value_one(kind, play):
    model = seeded(NORMED[kind])
    data = [(x[..., None], y) if kind == "convolution" else (x, y) for x, y in CLIENTS]
    play(model, data=data)
    model.eval()
    model(data[0][0])  # the hook computes its weight here
    weight = model[0].weight.detach()
    matrix = weight.transpose(0, 1).flatten(1) if kind == "convolution" else weight
    assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1, abs=2e-3)
    vectors = [b for name, b in model.named_buffers() if name.endswith(("_u", "_v"))]
    assert len(vectors) == 2 and all(float(v.norm()) == pytest.approx(1, abs=1e-5) for v in vectors)


# --- Constants


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("play", [federate, gossip, lambda m: federate(m, "intrinsic@dim=16")])
def test_a_constant_that_is_not_finite_is_not_sent_and_stays(value, play):
    buffer = torch.zeros(3, 3).index_fill(0, torch.tensor([1]), value)
    model = Net(buffer.clone())
    with_it, without = play(model), play(Net(buffer, persistent=False))
    assert torch.equal(model.extra.nan_to_num(), buffer.nan_to_num())
    assert with_it.ledger.frame_bytes == without.ledger.frame_bytes and not with_it.notes
    assert "extra" not in fb.factor.shared(model)


@pytest.mark.parametrize("method", ["topk", "topk@down=changes", "lbgm+topk"])
def test_a_constant_travels_down_once_and_then_costs_a_few_bytes(method):
    constant = torch.arange(1.0, 501.0)
    model = Net(constant.clone())
    with_it, without = federate(model, method, rounds=4), federate(Net(constant, persistent=False), method, rounds=4)
    frames = 4 * len(CLIENTS)
    more = {way: with_it.ledger.frame_bytes[way] - without.ledger.frame_bytes[way] for way in ("up", "down")}
    assert more["up"] <= 8 * frames and more["down"] <= 4 * 500 * len(CLIENTS) + 12 * frames
    assert torch.equal(model.extra, constant) and not with_it.notes


def test_a_constant_costs_two_bytes_in_a_dense_frame_up():
    with_it, without = federate(Net(torch.ones(500))), federate(Net(torch.ones(500), persistent=False))
    assert with_it.ledger.frame_bytes["up"] - without.ledger.frame_bytes["up"] == 2 * 2 * len(CLIENTS)


@pytest.mark.parametrize("method", ["dsgd", "choco@bits=4", "malcom", "deepsqueeze"])
def test_a_constant_of_equal_nodes_does_not_drift_and_costs_a_few_bytes_a_frame(method):
    constant = torch.linspace(0.1, 3, 50)
    model = seeded(lambda: Net(constant.clone()))
    other = seeded(lambda: Net(constant, persistent=False))
    with_it, without = gossip(model, method, rounds=8), gossip(other, method, rounds=8)
    assert torch.equal(model.extra, constant) and not with_it.notes
    more = sum(with_it.ledger.frame_bytes.values()) - sum(without.ledger.frame_bytes.values())
    assert 0 <= more <= 5 * 8 * 2 * len(CLIENTS)  # two or three, and what another dither changes


@pytest.mark.parametrize("changed", [False, True])
def test_a_node_that_was_loaded_into_a_trained_model_reads_buffers_as_before(changed):
    def pair(model):
        ring, codec = fb.topology.ring(2), fb.learn.DSGD()
        return [Node(copy.deepcopy(model), codec, ring, me, fb.Key(0)) for me in (0, 1)]

    def train(model):
        model.named()["extra"].add_(0.25 if changed else 0.0)
        model.params.sub_(0.1)
        return 0.1

    def play(nodes):
        frames = [node.step(train) for node in nodes]
        for node in nodes:
            node.receive(1 - node.me, frames[1 - node.me])
            node.mix()
        return frames

    nodes = pair(seeded(lambda: Net(torch.full((40,), 0.7))))
    first = play(nodes)
    again = pair(Net(torch.zeros(40)))
    for old, new in zip(nodes, again, strict=True):
        new.load(old.dump())
    assert play(nodes) == play(again)
    assert all(torch.equal(a.flat.whole, b.flat.whole) for a, b in zip(nodes, again, strict=True))
    assert all((len(frame) > 4 * 40 + 4 * 36) == changed for frame in first)


def test_a_buffer_that_one_client_changes_once_is_averaged_and_named_once():
    server = fb.Server(seeded(lambda: Net(torch.ones(8))), "topk", fb.Key(0))
    clients = [fb.Client(copy.deepcopy(server.model), "topk", fb.Key(1 + i)) for i in range(2)]
    for round in range(3):
        for number, client in enumerate(clients):
            client.receive(server.bundle(number))
            if (number, round) == (1, 1):
                client.model.extra += 4
            assert server.accept(number, client.reply(), 1.0) is not None
        server.step()
    assert bool((server.model.extra == 3).all())
    assert [note for note in server.notes if "extra" in note] == server.notes and len(server.notes) == 1


# --- Buffers of other kinds


@pytest.mark.parametrize("play", [federate, gossip])
def test_an_assigned_buffer_is_averaged_as_one_that_is_changed_in_place(play):
    models = [seeded(lambda change=change: Net(torch.zeros(8), change)) for change in (assign, in_place)]
    notes = [play(model).notes for model in models]
    assert torch.equal(models[0].extra, models[1].extra) and bool(models[0].extra.any())
    assert notes[0] == notes[1] and len(notes[0]) == 1 and "extra" in notes[0][0] and "averaged" in notes[0][0]


@pytest.mark.parametrize("change", [grow, vanish])
@pytest.mark.parametrize("play", [federate, gossip, lambda m: federate(m, "lbgm+topk")])
def test_a_buffer_that_becomes_another_is_left_out_and_named_once(change, play):
    model = Net(torch.ones(8), change)
    result = play(model)
    assert bool((model.extra == 1).all()) and model.layer.weight.shape == (4, 8)
    assert len(result.notes) == 1 and "buffer extra" in result.notes[0] and "not sent" in result.notes[0]


LOCALS = {
    "an integer": (lambda: Net(torch.zeros((), dtype=torch.int64), count), "int64"),
    "not saved": (lambda: Net(torch.zeros(8), in_place, persistent=False), "not saved"),
    "infinite": (lambda: Net(torch.full((8,), torch.inf), lambda net, x: net.extra.clamp_(max=x.mean())), "finite"),
    "complex": (lambda: Net(torch.zeros(8, dtype=torch.cfloat), count), "complex64"),
    "frozen": (lambda: Frozen(), "frozen"),
    "no buffer": (lambda: Attribute(), "no buffer"),
}


class Frozen(Net):
    """A frozen copy follows the trained layer, as the teachers of self-supervised learning do."""

    def __init__(self):
        super().__init__(torch.zeros(1), lambda net, x: net.teacher.weight.data.lerp_(net.layer.weight.data, 0.5))
        self.teacher = nn.Linear(8, 4, bias=False).requires_grad_(False)

    def forward(self, x):
        return super().forward(x) + self.teacher(x)


class Attribute(Net):
    """A tensor that is neither parameter nor buffer follows the data."""

    def __init__(self):
        super().__init__(torch.zeros(1), lambda net, x: setattr(net, "mean", net.mean + x.mean(0)))
        self.mean = torch.zeros(8)

    def forward(self, x):
        return super().forward(x + self.mean)


@pytest.mark.parametrize("kind", LOCALS)
@pytest.mark.parametrize("play", [federate, gossip])
def test_what_training_changes_and_does_not_travel_is_named_once_and_seen_by_no_other_client(kind, play):
    build, word = LOCALS[kind]
    models = [seeded(build) for _ in range(2)]
    alone, two = play(models[0]), play(models[1], processes=2)
    assert len(alone.notes) == 1 and word in alone.notes[0] and "not sent" in alone.notes[0]
    assert alone.notes == two.notes and alone.ledger.frame_bytes == two.ledger.frame_bytes
    assert torch.equal(models[0].layer.weight, models[1].layer.weight)


# --- Types that cannot travel


ENDS = {
    "federate": federate,
    "gossip": gossip,
    "Server": lambda model: fb.Server(model, "dense", fb.Key(0)),
    "Client": lambda model: fb.Client(model, "dense", fb.Key(0)),
    "pfedpara": lambda model: fb.Client(model, "pfedpara", fb.Key(0)),
    "Node": lambda model: Node(model, fb.learn.DSGD(), fb.topology.ring(2), 0, fb.Key(0)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
@pytest.mark.parametrize("end", ENDS)
def test_a_parameter_of_a_type_that_cannot_travel_is_named_at_the_start(dtype, end):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4, dtype=dtype))
    with pytest.raises(fb.LocalError, match=rf"1\.weight is {dtype}; .*requires_grad_\(False\)"):
        ENDS[end](model)


@pytest.mark.parametrize("end", ENDS)
def test_a_lazy_layer_and_a_model_without_parameters_are_refused_at_the_start(end):
    with pytest.raises(fb.LocalError, match=r"1\.weight belongs to a lazy layer"):
        ENDS[end](nn.Sequential(nn.Linear(8, 4), nn.LazyLinear(4)))
    with pytest.raises(fb.LocalError, match="no trainable parameter" if end != "pfedpara" else "frozen"):
        ENDS[end](nn.Sequential(nn.Linear(64, 64)).requires_grad_(False))
    with pytest.raises(fb.LocalError, match=r"0\.weight is on the device meta"):
        ENDS[end](nn.Sequential(nn.Linear(64, 64, device="meta")))


@pytest.mark.parametrize("play", [federate, gossip])
def test_a_lazy_buffer_and_a_model_without_values_are_refused_before_a_run_copies_them(play):
    lazy = nn.Sequential(nn.Linear(8, 4), nn.LazyBatchNorm1d(affine=False), nn.Linear(4, 4))
    with pytest.raises(fb.LocalError, match=r"1\.running_mean belongs to a lazy layer"):
        play(lazy)
    with pytest.raises(fb.LocalError, match=r"weight is on the device meta"):
        play(nn.Linear(8, 4, device="meta"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fedper", "local"])
def test_private_layers_of_a_scripted_module_are_refused_by_name(method):
    model = torch.jit.script(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4)))
    with pytest.raises(fb.LocalError, match=r"[01]\.(weight|bias) is of a TorchScript module"):
        federate(model, method)


@pytest.mark.parametrize("value", [1e13, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("method", ["dsgd", "choco"])
def test_a_large_constant_of_equal_nodes_is_no_lie(method, value):
    model = Net(torch.full((5,), value))
    assert not gossip(model, method, rounds=3).notes and torch.equal(model.extra, torch.full((5,), value))


# --- The module is no longer the one that was laid out


def build():
    return seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)))


def other_norm():
    norm = nn.BatchNorm1d(16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


TAKEN = {
    "load_state_dict(assign=True)": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True),
    "a new head": lambda m: m.__setitem__(3, nn.Linear(16, 4)),
    "a copied layer": lambda m: m.__setitem__(0, copy.deepcopy(m[0])),
    "a new parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.randn(16, 8))),
    "new data": lambda m: setattr(m[0].weight, "data", torch.randn(16, 8)),
    "another type and back": lambda m: m.double().float(),
    "shared memory": lambda m: m.share_memory(),
    "other statistics": lambda m: m.__setitem__(1, other_norm()),
    "a frozen parameter more": lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1), False)),
}


def play_by_hand(change, moment, end="client", build=build):
    """Three rounds of one client, with a change of a module in the second."""
    server, client = fb.Server(build(), "dense", fb.Key(0)), fb.Client(build(), "dense", fb.Key(1))
    module = client.model if end == "client" else server.model
    for round in range(3):
        if (moment, round) == ("before", 1):
            change(module)
        client.receive(server.bundle(0))
        if (moment, round) == ("received", 1):
            change(module)
        before = {name: x.detach().clone() for name, x in server.model.named_parameters() if x.requires_grad}
        with torch.no_grad():
            for parameter in client.model.parameters():
                parameter.sub_(0.5 * parameter.requires_grad)
        if (moment, round) == ("trained", 1):
            change(module)
        assert server.accept(0, client.reply(), 1.0) is not None
        server.step()
        assert all(not torch.equal(x, server.model.get_parameter(name)) for name, x in before.items())
    client.receive(server.bundle(0))
    return server, client


@pytest.mark.parametrize("moment", ["before", "received", "trained"])
@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("change", TAKEN)
def test_a_tensor_that_was_replaced_by_one_of_its_shape_is_taken_over(change, end, moment):
    server, client = play_by_hand(TAKEN[change], moment, end)
    theirs = dict(client.model.named_parameters())
    for name, x in server.model.named_parameters():
        if x.requires_grad:
            assert torch.allclose(x, theirs[name], atol=1e-5), name
            assert x.data_ptr() == server.flat.named()[name].data_ptr()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.last.weight = self.first.weight


REFUSED = {
    "a larger head": (build, lambda m: m.__setitem__(3, nn.Linear(16, 5)), r"3\.weight has shape \(5, 16\)"),
    "a layer more": (build, lambda m: m.append(nn.Linear(4, 4)), r"4\.weight was added"),
    "a parameter more": (build, lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1))), "scale was add"),
    "a frozen layer": (build, lambda m: m[0].weight.requires_grad_(False), r"0\.weight was frozen"),
    "another type": (build, lambda m: m.double(), r"0\.weight has dtype torch\.float64"),
    "a factored weight": (build, lambda m: weight_norm(m[0]), r"0\.weight was trained .* no parameter"),
    "a pruned weight": (build, lambda m: prune.identity(m[0], "weight"), r"0\.weight was trained .* no parameter"),
    "a tensor gone": (build, lambda m: setattr(m[3], "bias", None), r"3\.bias was trained"),
    "an untied weight": (Tied, lambda m: setattr(m.last, "weight", nn.Parameter(torch.ones(8, 8))), "no longer tied"),
    "a tied weight": (Tied, lambda m: setattr(m.last, "bias", m.first.bias), r"last\.bias was tied"),
    "an unfrozen layer": (lambda: half_frozen(), lambda m: m.requires_grad_(True), r"0\.weight was unfrozen"),
}


def half_frozen():
    model = build()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("moment", ["before", "trained"])
@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("change", REFUSED)
def test_a_module_that_is_another_now_is_refused_by_the_name_of_the_tensor(change, end, moment):
    make, do, sentence = REFUSED[change]
    with pytest.raises(fb.LocalError, match=sentence):
        play_by_hand(do, moment, end, make)


def test_nothing_of_a_refused_module_was_taken_over():
    client = fb.Client(build(), "dense", fb.Key(0))
    before = client.flat.vector()
    client.model[0].weight = nn.Parameter(torch.zeros(16, 8))
    client.model[3].bias.requires_grad_(False)
    for _ in range(2):
        with pytest.raises(fb.LocalError, match=r"3\.bias was frozen"):
            client.flat.attach()
    assert torch.equal(client.flat.vector(), before)


# --- Modules whose tensors are made by others


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8, sparse=True), nn.Linear(8, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))
        self.register_buffer("places", torch.randn(6, 8))

    def forward(self, x):
        return self.head(self.layer(self.embed(x) + self.places, src_mask=self.mask)[:, -1])


def derived():
    model = nn.Sequential(weight_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4))
    prune.l1_unstructured(model[2], "weight", 0.5)
    return model


KINDS = {
    "derived tensors": (derived, CLIENTS),
    "TorchScript": (lambda: torch.jit.script(build()), CLIENTS),
    "parametrizations": (lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(8, 4))), CLIENTS),
    "statistics of all batches": (lambda: nn.Sequential(nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 4)), CLIENTS),
    "no statistics": (
        lambda: nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)),
        CLIENTS,
    ),
    "tied recurrent": (Recurrent, TEXTS),
    "attention": (Attention, TEXTS),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("play", [federate, gossip])
def test_every_parameter_of_an_odd_module_is_trained_and_owns_its_memory_after_the_run(kind, play):
    make, data = KINDS[kind]
    model = seeded(make)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    result = play(model, data=data)
    assert not result.notes
    for name, x in model.named_parameters():
        assert not torch.equal(x, before[name]), name
        assert x.grad is None and x.untyped_storage().nbytes() == x.nbytes
    copy.deepcopy(model)


def test_derived_tensors_say_after_a_run_what_the_parameters_say():
    model = seeded(derived)
    federate(model)
    weight = model[0].weight_g * model[0].weight_v / model[0].weight_v.norm(dim=1, keepdim=True)
    assert torch.allclose(model[0].weight, weight, atol=1e-6)
    assert torch.equal(model[2].weight, model[2].weight_orig * model[2].weight_mask)


# --- Memory


def saved(tensors):
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def check_files(model):
    """A file of what travels holds nothing that stays, and a bias takes no more than it needs."""
    state = model.state_dict()
    travels, stays = fb.factor.shared(model), fb.factor.private(model)
    assert stays
    data = saved({name: state[name] for name in travels})
    assert all(state[name].numpy().tobytes() not in data for name in stays)
    small = min(travels, key=lambda name: state[name].numel())
    assert len(saved(state[small])) < 4 * state[small].numel() + 2000


@pytest.mark.parametrize("method", ["pfedpara", "fedper"])
def test_a_file_of_what_travels_holds_no_private_value_during_and_after_a_run(method):
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)))
    rounds = []
    federate(model, method, watch=lambda report: (rounds.append(report.round), check_files(model)))
    assert rounds == [1, 2]
    check_files(model)


def test_a_file_of_what_travels_holds_no_private_value_of_a_client_in_a_loop_by_hand():
    make = lambda: seeded(lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)))  # noqa: E731
    server, client = fb.Server(make(), "pfedpara", fb.Key(0)), fb.Client(make(), "pfedpara", fb.Key(1))
    client.receive(server.bundle(0))
    with torch.no_grad():
        for x in client.model.parameters():
            x.add_(0.1)
    client.reply()
    check_files(client.model)
    check_files(server.model)
    named, travels = client.flat.named(), fb.factor.shared(client.model)
    data = saved({name: named[name] for name in travels})
    assert all(named[name].numpy().tobytes() not in data for name in client.flat.private_names)


def test_a_released_model_can_be_taken_up_again():
    client = fb.Client(build(), "dense", fb.Key(0))
    client.flat.release()
    assert client.model[0].weight.data_ptr() != client.flat.named()["0.weight"].data_ptr()
    with torch.no_grad():
        client.model[0].weight.fill_(3)
    client.flat.attach()
    assert bool((client.flat.named()["0.weight"] == 3).all())
    client.flat.whole.zero_()
    assert not client.model[0].weight.any()
