"""A factored model in use: training, copies, checkpoints, flat buffers, merging, and what is refused."""

import copy
import os
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fewbits as fb
from fewbits.errors import LocalError
from fewbits.factor import (
    Factorisation,
    compose_once,
    fedpara,
    lowrank,
    merge,
    parameter_table,
    pfedpara,
    private,
    shared,
)
from fewbits.factor.derived import duplicate
from fewbits.learn.flat_model import FlatModel
from fewbits.methods import named
from fewbits.models.char_lstm import CharLSTM
from fewbits.models.resnet import resnet8
from fewbits.rng import Key

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
FORMS = ("fedpara", "pfedpara", "lowrank")


class Tied(nn.Module):
    """A language model whose embedding is its output layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(60, 30)
        self.body = nn.Linear(30, 30)
        self.output = nn.Linear(30, 60, bias=False)
        self.output.weight = self.embedding.weight
        self.fails = False

    def forward(self, x):
        hidden = torch.tanh(self.body(self.embedding(x)))
        if self.fails:
            raise RuntimeError("in the middle")
        return self.output(hidden)


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.layers = kind(24, 20, 2, batch_first=True, bidirectional=True, **options)
        self.output = nn.Linear(40 if "proj_size" not in options else 2 * options["proj_size"], 30)

    def forward(self, x):
        return self.output(self.layers(x)[0])


MODELS = {
    "conv": (lambda: resnet8((3, 16, 16), 10), (2, 3, 16, 16)),
    "lstm": (lambda: Recurrent(), (2, 5, 24)),
    "lstm, projected": (lambda: Recurrent(proj_size=16), (2, 5, 24)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 5, 24)),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(40, 50, bias=False), nn.BatchNorm1d(50), nn.Linear(50, 60)),
        (4, 40),
    ),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(32, 48, 5, groups=2), nn.Flatten(), nn.Linear(48 * 4, 40)), (2, 32, 8)),
    "tied": (lambda: Tied(), (2, 7)),
}


def inputs(name, seed=1):
    shape = MODELS[name][1]
    generator = Key(seed).generator()
    return (
        torch.randint(0, 60, shape, generator=generator) if name == "tied" else torch.randn(shape, generator=generator)
    )


def step(model, x, lr=0.05):
    model.zero_grad()
    model(x).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= lr * p.grad


every_model = pytest.mark.parametrize("name", MODELS)
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@every_model
def test_a_step_moves_every_factor_and_the_outputs(name, form):
    """An LSTM's own list of weights would train stale tensors."""
    model, x = Factorisation(form, 0.2)(MODELS[name][0]()), inputs(name)
    before, out = {n: p.clone() for n, p in model.named_parameters()}, model(x)
    for _ in range(1 + (form == "pfedpara")):  # its second half begins at X2 = 0, and Y2 has a gradient once X2 moved
        step(model, x)
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    rest = ("Y2", "T2") if form == "pfedpara" else ()  # so large that a first step may be lost in rounding
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n]) and not n.endswith(rest)] == []
    assert not torch.allclose(model(x), out)


@every_form
@every_model
def test_merging_keeps_the_outputs_and_loads_into_the_plain_model(name, form):
    model, x = Factorisation(form, 0.2)(MODELS[name][0]()).eval(), inputs(name)
    out, state = model(x), {n: t.clone() for n, t in model.state_dict().items()}
    merged, plain = merge(model), MODELS[name][0]().eval()
    plain.load_state_dict(merged.state_dict(), strict=True)
    for other in (merged, plain):
        torch.testing.assert_close(other(x), out, rtol=1e-5, atol=1e-5)
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in merged.parameters())
    assert vars(merged).keys() == vars(plain).keys()
    torch.testing.assert_close(model(x), out, rtol=0, atol=0)  # the model itself is as it was
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    step(merged, x)
    assert not torch.allclose(merged(x), out)


@every_form
@every_model
def test_state_dicts_and_copies_are_whole(name, form):
    x = inputs(name)
    model = Factorisation(form, 0.2)(MODELS[name][0](), Key(1)).eval()
    other = Factorisation(form, 0.2)(MODELS[name][0](), Key(2)).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    twin = copy.deepcopy(model)
    for one in (other, twin):
        torch.testing.assert_close(one(x), model(x), rtol=0, atol=0)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
    step(twin, x)
    assert not torch.allclose(twin(x), model(x)) and torch.equal(other(x), model(x))
    assert shared(twin) == shared(model) and private(twin) == private(model)
    assert str(parameter_table(twin)) == str(parameter_table(model))


@every_model
def test_a_flat_model_trains_the_factors(name):
    x = inputs(name)
    model, twin = (pfedpara(MODELS[name][0](), 0.2) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    flat = FlatModel(twin)
    for one in (model, twin):
        one(x).square().mean().backward()
    assert flat.params.numel() == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        flat.params.sub_(flat.grads, alpha=0.05)  # behind the parameters' back
        for p in model.parameters():
            p -= 0.05 * p.grad
    torch.testing.assert_close(twin(x), model(x))
    assert set(flat.named()) == set(shared(model)) | set(private(model))
    flat.grads.zero_()
    flat.attach()


@every_model
def test_functional_call_uses_the_given_factors(name):
    x = inputs(name)
    model, other = (fedpara(MODELS[name][0](), 0.2, key=Key(seed)).eval() for seed in (1, 2))
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    got = torch.func.functional_call(model, state, (x,))
    torch.testing.assert_close(got, other(x))
    assert not torch.allclose(got, model(x))


@every_model
def test_models_run_in_bfloat16_regions(name):
    model, x = fedpara(MODELS[name][0](), 0.2), inputs(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(loss, model(x).square().mean(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["grouped", "tied", "batch norm"])
def test_models_compile(name):
    model, x = fedpara(MODELS[name][0](), 0.2).eval(), inputs(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).square().mean().backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).square().mean().backward()
    for a, p in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_the_same():
    model, x = fedpara(Recurrent(), 0.2), inputs("lstm")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with torch.no_grad():
            os.write(writer, model(x).numpy().tobytes()[:1000])
        os._exit(0)
    os.waitpid(child, 0)
    with torch.no_grad():
        assert os.read(reader, 1000) == model(x).numpy().tobytes()[:1000]
    os.close(reader)
    os.close(writer)


def test_moving_a_model_moves_its_factors():
    model, x = fedpara(Recurrent(), 0.2), inputs("lstm")
    out = model(x)
    torch.testing.assert_close(model.double()(x.double()), out.double(), rtol=1e-4, atol=1e-5)


def test_a_tied_weight_is_composed_once_per_forward_and_let_go(monkeypatch):
    model, x = fedpara(Tied(), 0.2), inputs("tied")
    factors = model.output.parametrizations.weight[0]
    assert factors is model.embedding.parametrizations.weight[0]
    calls = []
    kind, compose = type(factors), type(factors)._compose
    monkeypatch.setattr(kind, "_compose", lambda self: calls.append(self is factors) or compose(self))
    model(x).sum().backward()
    assert calls.count(True) == 1 and calls.count(False) == 1
    model.fails = True
    with pytest.raises(RuntimeError, match="in the middle"):
        model(x)
    assert compose_once._cache.get() is None  # an exception leaves nothing behind
    model.fails = False
    before = model(x)
    step(model, x)
    assert not torch.allclose(model(x), before)


def test_a_tied_weight_composed_without_gradients_is_not_used_with_them():
    model, x = fedpara(Tied(), 0.2), inputs("tied")

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            with torch.no_grad():
                self.inner(x)
            return self.inner(x)

    outer = Both()
    compose_once.attach(outer)
    outer(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.embedding.parameters())


def test_a_recurrent_weight_is_composed_once_per_forward(monkeypatch):
    model, x = fedpara(Recurrent(), 0.2), inputs("lstm")
    calls = []
    kind = type(model.output.parametrizations.weight[0])
    compose = kind._compose
    monkeypatch.setattr(kind, "_compose", lambda self: calls.append(id(self)) or compose(self))
    model(x)
    assert len(calls) == len(set(calls)) == 9  # 2 layers x 2 directions x 2 weights, and the output


def test_a_loop_may_compose_once_by_torchs_own_cache():
    cell = fedpara(nn.LSTMCell(24, 20), 0.2)
    with parametrize.cached():
        assert cell.weight_ih is cell.weight_ih
    assert cell.weight_ih is not cell.weight_ih


def test_names_tell_what_travels_and_what_stays():
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(32 * 9, 40))
    model[3].bias.requires_grad_(False)
    pfedpara(model, 0.0)
    names = ["X1", "Y1", "T1"]
    assert shared(model) == (
        *["0.bias", *(f"0.parametrizations.weight.0.{n}" for n in names)],
        *["1.weight", "1.bias"],
        *(f"3.parametrizations.weight.0.{n}" for n in names[:2]),
        *["1.running_mean", "1.running_var"],
    )
    assert private(model) == tuple(
        [f"0.parametrizations.weight.0.{n}" for n in ("X2", "Y2", "T2")]
        + [f"3.parametrizations.weight.0.{n}" for n in ("X2", "Y2")]
    )
    assert private(fedpara(nn.Linear(50, 50))) == ()


def test_whole_layers_may_stay_private():
    """FedPer: the head stays with the client."""
    model = fedpara(CharLSTM((1,), 65), 0.0, private=["output"])
    assert private(model) == (
        "output.bias",
        *(f"output.parametrizations.weight.0.{n}" for n in ("X1", "Y1", "X2", "Y2")),
    )
    model = fedpara(CharLSTM((1,), 65), 0.0, skip=["output"], private=["output"])
    assert private(model) == ("output.weight", "output.bias")


def test_the_table_names_every_weight_and_every_reason():
    model = nn.ModuleDict(
        {
            "factored": nn.Linear(60, 60),
            "left": nn.Linear(60, 60),
            "small": nn.Linear(4, 3),
            "depthwise": nn.Conv2d(30, 30, 3, groups=30),
            "attention": nn.MultiheadAttention(60, 2),
            "frozen": nn.Linear(60, 60),
            "sparse": nn.Embedding(60, 60, sparse=True),
            "bounded": nn.Embedding(60, 60, max_norm=1.0),
            "transposed": nn.ConvTranspose2d(30, 30, 3),
        }
    )
    model["frozen"].weight.requires_grad_(False)
    table = parameter_table(fedpara(model, 0.0, skip=["left"]))
    notes = {row.name: row.note for row in table.rows}
    assert notes == {
        "factored.weight": "fedpara",
        "left.weight": "not chosen",
        "small.weight": "too small to gain: 28 numbers in factors of rank 2",
        "depthwise.weight": "one input channel per group",
        "attention.in_proj_weight": "no factored form for in_proj_weight of MultiheadAttention",
        "attention.out_proj.weight": "fedpara",
        "frozen.weight": "frozen",
        "sparse.weight": "sparse gradients",
        "bounded.weight": "max_norm writes into the weight",
        "transposed.weight": "no factored form for weight of ConvTranspose2d",
    }
    assert table.after == sum(p.numel() for p in model.parameters())
    assert table.travels == table.after - 3600  # the frozen weight
    assert table.rows[0].reachable == 60 and table.rows[0].ranks == (8, 8)
    text = str(table)
    assert all(name in text and note in text for name, note in notes.items())
    assert f"{table.before:,}" in text and f"{table.travels:,}" in text


def test_reachable_ranks_are_reached():
    for form, make in [("fedpara", lambda: nn.Linear(90, 80)), ("pfedpara", lambda: nn.Conv2d(30, 40, 3))]:
        for gamma in (0.0, 0.3):
            model = Factorisation(form, gamma)(make().double())
            (row,) = parameter_table(model).rows
            generator = Key(1).generator()
            for factor in model.parameters():  # pFedPara's second half begins at zero
                nn.init.normal_(factor, generator=generator)
            assert torch.linalg.matrix_rank(model.weight.flatten(1)) == row.reachable


def test_a_table_of_a_plain_model_is_all_dense():
    table = parameter_table(resnet8((3, 16, 16), 10))
    assert table.before == table.after == table.travels and all(row.ranks is None for row in table.rows)


def test_parts_of_a_model_may_have_forms_of_their_own():
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60), nn.Linear(60, 60))
    fedpara(model, 0.2, only=["0"])
    pfedpara(model, 0.4, only=["1"])
    lowrank(model, 0.4, skip=["0", "1"])
    assert [row.note for row in parameter_table(model).rows] == ["fedpara", "pfedpara", "lowrank"]
    assert len(merge(model).state_dict()) == 6


@pytest.mark.parametrize(
    "how",
    [
        Factorisation(),
        Factorisation("pfedpara", 0.5, skip=["fc", "*.out"], private="*.bias"),
        Factorisation("lowrank", {"conv*": 0.1, "*": 1}, kernels="matrix"),
        Factorisation("fedpara", "auto", budget_bytes=1000, init="fan_out", tanh=True),
    ],
)
def test_a_repr_makes_the_value_again(how):
    again = eval(repr(how))
    assert again == how and hash(again) == hash(how)
    assert all(getattr(again, f.name) == getattr(how, f.name) for f in fields(how))


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({"gamma": 1.5}, r"gamma must be a number in \[0, 1\].*got 1.5"),
        ({"gamma": -0.1}, r"gamma must be a number in \[0, 1\].*got -0.1"),
        ({"gamma": float("nan")}, r"gamma must be a number in \[0, 1\].*got nan"),
        ({"gamma": True}, r"gamma must be a number in \[0, 1\].*got True"),
        ({"gamma": {"*": 2}}, r"gamma must be a number in \[0, 1\].*got 2"),
        ({"gamma": "auto"}, "gamma='auto' and budget_bytes go together.*budget_bytes=None"),
        ({"budget_bytes": 5}, "gamma='auto' and budget_bytes go together.*gamma=0.1"),
        ({"gamma": "auto", "budget_bytes": 0}, "whole number, 1 or more; got 0"),
        ({"form": "loha"}, "form must be one of fedpara, pfedpara, lowrank; got 'loha'"),
        ({"init": "he"}, "init must be one of matched.*got 'he'"),
        ({"kernels": "cp"}, "kernels must be one of tucker, matrix; got 'cp'"),
        ({"skip": [3]}, r"skip takes shell patterns on names; got \[3\]"),
        ({"form": "lowrank", "tanh": True}, "tanh is for the two halves"),
    ],
)
def test_bad_values_are_sentences(options, sentence):
    with pytest.raises(LocalError, match=sentence):
        Factorisation(**options)


@pytest.mark.parametrize(
    "options,sentence",
    [
        (
            {"skip": ["fc"]},
            r"skip: pattern 'fc' matches nothing; there are embedding.weight, output.weight, body.weight",
        ),
        ({"only": ["body", "head"]}, "only: pattern 'head' matches nothing"),
        ({"gamma": {"bodi": 0.1, "*": 0.2}}, "gamma: pattern 'bodi' matches nothing"),
        ({"gamma": {"body": 0.1}}, "gamma: no pattern matches embedding.weight; there are 'body'"),
        ({"private": ["head"]}, "private: pattern 'head' matches nothing"),
        ({"private": ["output"]}, "output.weight is tied to embedding.weight, which travels"),
        ({"only": ["output"]}, "tied to embedding.weight, which was not chosen"),
    ],
)
def test_patterns_that_match_nothing_are_sentences_and_change_nothing(options, sentence):
    model = Tied()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(LocalError, match=sentence):
        Factorisation(**options)(model)
    assert type(model.body) is nn.Linear and model.output.weight is model.embedding.weight
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_what_cannot_be_done_is_a_sentence():
    model = fedpara(nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60)), 0.3)
    with pytest.raises(LocalError, match=r"0.weight: asked for pfedpara, but it is factored already \(fedpara, 60x60"):
        pfedpara(model, 0.3)
    with pytest.raises(LocalError, match=r"shape \(60, 60\) is composed of factors and cannot be assigned"):
        model[0].weight = torch.zeros(60, 60)
    other = fedpara(nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60)), 0.9)
    with pytest.raises(LocalError, match=r"0.weight: its factors have rank 14; the loaded ones have rank 10"):
        other.load_state_dict(model.state_dict())
    with pytest.raises(LocalError, match="no weight of this Sequential is factored"):
        merge(merge(model))
    with pytest.raises(LocalError, match="too small to gain"):
        fedpara(nn.Linear(4, 3))
    with pytest.raises(LocalError, match="no weight of this ReLU can be factored"):
        fedpara(nn.ReLU())
    with pytest.raises(LocalError, match="weight: it has no shape yet"):
        fedpara(nn.LazyLinear(60))
    zero = nn.Linear(60, 60)
    nn.init.zeros_(zero.weight)
    with pytest.raises(LocalError, match="needs a weight to imitate; its mean square is 0"):
        fedpara(zero, init="replaced")


def test_another_parametrization_on_a_layer_is_kept_and_not_merged():
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60))
    parametrize.register_parametrization(model[0], "bias", Double())
    fedpara(model, 0.2)
    assert [row.note for row in parameter_table(model).rows] == [
        "the layer has another parametrization, Double",
        "fedpara",
    ]
    parametrize.register_parametrization(model[1], "weight", Double())
    with pytest.raises(LocalError, match=r"1.weight: remove the other parametrization of weight first"):
        merge(model)


NORMS = {
    "BatchNorm": lambda layer: None,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by hooks": torch.nn.utils.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned weight": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
}


def normed(name):
    torch.manual_seed(0)
    norm, middle = nn.BatchNorm1d(64), nn.Linear(64, 64)
    model = nn.Sequential(nn.Linear(64, 64), norm, nn.ReLU(), middle, nn.ReLU(), nn.Linear(64, 4))
    NORMS[name](middle)
    return model


@pytest.mark.parametrize("form", ["fedpara", "pfedpara", "lowrank"])
@pytest.mark.parametrize("name", NORMS)
def test_a_factored_model_with_norms_or_masks_trains_as_without_a_federation(name, form):
    """One client, whose round is three steps of SGD on all of its examples."""
    method, model = named(form), normed(name)
    method.prepare(model, Key(7))
    alone = duplicate(model)
    start = {key: x.detach().clone() for key, x in model.state_dict().items()}
    x, y = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 4
    for _ in range(3):
        alone.zero_grad()
        nn.functional.cross_entropy(alone(x), y).backward()
        with torch.no_grad():
            for p in alone.parameters():
                p.sub_(0.1 * p.grad)
    fb.federate(model, [(x, y)], method, 1, local=fb.LocalSGD(lr=0.1, batch_size=0, steps=3))
    found, expected = model.state_dict(), alone.state_dict()
    assert any(".parametrizations.weight.0." in f".{key}" for key in found), "something is factored"
    stay = private(model)
    for key, value in expected.items():
        if "num_batches" in key or key.endswith(("._u", "._v", "_u", "_v")):
            continue  # counts stay; unit vectors are computed anew from the weight
        torch.testing.assert_close(found[key], start[key] if key in stay else value, rtol=1e-3, atol=1e-4, msg=key)
    moved = [key for key in found if not torch.equal(found[key], start[key])]
    assert any("parametrizations.weight.0.X1" in key for key in moved) and "1.running_mean" in moved


def test_a_layer_that_keeps_its_own_parametrization_is_named():
    for name in ("spectral norm", "weight norm", "orthogonal"):
        model = nn.Sequential(nn.Linear(64, 64))
        NORMS[name](model[0])
        with pytest.raises(fb.LocalError, match=r"0\.weight: the layer has another parametrization, \w+"):
            fb.federate(model, [(torch.zeros(4, 64), torch.zeros(4, dtype=torch.int64))], "fedpara", 1)
        with pytest.raises(fb.LocalError, match=r"no weight .* can be factored"):
            Factorisation("pfedpara", only=["0.weight"])(model)
