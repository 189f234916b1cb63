"""LoHa, to and from PEFT: same weights, same gradients, and only the factors train and travel."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

import fewbits as fb
from fewbits.factor.loha import LoHaWeight, from_loha, to_loha
from fewbits.learn.flat_model import FlatModel

PEFTS_NAMES = {
    "X1": "hada_w1_a",
    "Y1": "hada_w1_b",
    "X2": "hada_w2_a",
    "Y2": "hada_w2_b",
    "T1": "hada_t1",
    "T2": "hada_t2",
}
LINEARS = ["q_proj", "v_proj", "down_proj"]


def peft():
    """Imported where it is used: at the top, every worker would take seconds for it before its first test."""
    return importlib.import_module("peft")


def llama():
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).eval()


class Convolutions(nn.Module):
    """Every kind of layer that LoHa adapts, and buffers."""

    def __init__(self):
        super().__init__()
        self.wave = nn.Conv1d(2, 3, 3, padding=1)
        self.square = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 6, (3, 5), groups=2, stride=2, bias=False)
        self.point = nn.Conv2d(6, 4, 1)
        self.output = nn.Linear(4, 5)

    def forward(self, x):
        x = self.wave(x).unflatten(2, (12, 12))
        x = self.grouped(self.norm(self.square(x)).relu()).relu()
        return self.output(self.point(x).mean((2, 3)))


def adapted(model, **settings):
    """With every factor drawn at random: PEFT's own start has W = W0."""
    torch.manual_seed(1)
    return (
        peft().get_peft_model(model, peft().LoHaConfig(init_weights=False, **{"r": 3, "alpha": 6, **settings})).eval()
    )


def adapted_llama(**settings):
    return adapted(llama(), **{"target_modules": LINEARS, **settings})


def adapted_convolutions(**settings):
    torch.manual_seed(0)
    return adapted(Convolutions(), target_modules=["wave", "square", "grouped", "point", "output"], **settings)


def ids(rows=3):
    return torch.randint(29, (rows, 11), generator=torch.Generator().manual_seed(2))


def waves(rows=4):
    return torch.randn(rows, 2, 144, generator=torch.Generator().manual_seed(2))


def factors(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def disturb(model):
    """Another value in every factor."""
    with torch.no_grad():
        for number, factor in enumerate(factors(model).values()):
            factor.add_(0.1 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(number)))


def state(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def changed(model, before):
    return {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}


def loha_layers(peft_model):
    return {n: m for n, m in peft_model.get_base_model().named_modules() if hasattr(m, "hada_w1_a")}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def assert_same_weights(model, peft_model):
    layers = loha_layers(peft_model)
    assert layers
    for name, layer in layers.items():
        assert_close(model.get_submodule(name).weight, layer.base_layer.weight + layer.get_delta_weight("default"))


@torch.no_grad()
def test_a_transformer_computes_pefts_logits():
    peft_model = adapted_llama()
    model = from_loha(peft_model)
    assert_same_weights(model, peft_model)
    assert_close(model(ids()).logits, peft_model(ids()).logits)
    with peft_model.disable_adapter():
        assert not torch.allclose(model(ids()).logits, peft_model(ids()).logits, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("tucker", [False, True])
def test_convolutions_compute_pefts_outputs(tucker):
    peft_model = adapted_convolutions(use_effective_conv2d=tucker)
    model = from_loha(peft_model)
    assert any(name.endswith("T1") for name in factors(model)) == tucker
    assert_same_weights(model, peft_model)
    assert_close(model(waves()), peft_model(waves()))


def test_factors_have_the_papers_names_and_shapes():
    def shapes(tucker):
        model = from_loha(adapted_convolutions(use_effective_conv2d=tucker))
        start = "square.parametrizations.weight.0."
        return {n.removeprefix(start): tuple(p.shape) for n, p in factors(model).items() if n.startswith(start)}

    assert shapes(False) == {"X1": (8, 3), "Y1": (27, 3), "X2": (8, 3), "Y2": (27, 3)}
    cores = {"T1": (3, 3, 3, 3), "T2": (3, 3, 3, 3)}
    assert shapes(True) == {"X1": (8, 3), "Y1": (3, 3), "X2": (8, 3), "Y2": (3, 3), **cores}


@torch.no_grad()
def test_rank_and_alpha_of_a_single_layer_are_its_own():
    peft_model = adapted_llama(rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 1})
    model = from_loha(peft_model)
    weights = [m for m in model.modules() if isinstance(m, LoHaWeight)]
    assert {(w.X1.shape[1], w.scale) for w in weights} == {(3, 1 / 3), (2, 3.0), (3, 2.0)}
    assert_close(model(ids()).logits, peft_model(ids()).logits)


def tucker_weight(t1, w1a, w1b, t2, w2a, w2b, scale):
    """What PEFT computes with cores, in plain torch: peft 0.21's own backward of hada_w1_a and hada_w2_a is wrong."""
    one, two = (torch.einsum("ijkl,jr,ip->prkl", *half) for half in ((t1, w1b, w1a), (t2, w2b, w2a)))
    return one * two * scale


@pytest.mark.parametrize("tucker", [False, True])
def test_gradients_are_those_of_pefts_formula(tucker, monkeypatch):
    monkeypatch.setattr("peft.tuners.loha.layer.make_weight_cp", tucker_weight)
    peft_model = adapted_convolutions(use_effective_conv2d=tucker)
    model = from_loha(peft_model)
    for each in (model, peft_model):
        each(waves()).square().sum().backward()
    for name, ours in (pair for pair in model.named_modules() if isinstance(pair[1], LoHaWeight)):
        layer = loha_layers(peft_model)[name.removesuffix(".parametrizations.weight.0")]
        for part, factor in ours.named_parameters():
            theirs = getattr(layer, PEFTS_NAMES[part])["default"].grad
            # PEFT keeps the right factor transposed, and with cores the left one, too
            transposed = part in ("Y1", "Y2") or (part in ("X1", "X2") and ours.T1 is not None)
            torch.testing.assert_close(factor.grad, theirs.T if transposed else theirs, rtol=1e-4, atol=1e-5)


def test_a_step_trains_the_factors_and_nothing_else():
    peft_model = adapted_llama()
    theirs = state(peft_model)
    model = from_loha(peft_model).train()
    ours = state(model)
    expected = {f"{n}.parametrizations.weight.0.{f}" for n in loha_layers(peft_model) for f in ("X1", "Y1", "X2", "Y2")}
    assert set(factors(model)) == expected
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    cross_entropy(model(ids()).logits.transpose(1, 2), ids()).backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    assert changed(model, ours) == expected
    assert changed(peft_model, theirs) == set()


def test_frozen_weights_are_shared_and_buffers_are_not():
    peft_model = adapted_convolutions()
    model, base = from_loha(peft_model), peft_model.get_base_model()
    assert model.square.parametrizations.weight.original is base.square.base_layer.weight
    assert model.norm.weight is base.norm.weight
    assert model.norm.running_mean.data_ptr() != base.norm.running_mean.data_ptr()


def test_what_trains_besides_the_adapter_is_copied_and_frozen():
    peft_model = adapted_llama()
    head = peft_model.get_base_model().lm_head.weight.requires_grad_(True)
    model = from_loha(peft_model)
    assert head.requires_grad and not model.lm_head.weight.requires_grad
    assert model.lm_head.weight.data_ptr() != head.data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("tucker", [False, True])
def test_trained_factors_go_back(tucker):
    peft_model = adapted_convolutions(use_effective_conv2d=tucker)
    model = from_loha(peft_model)
    disturb(model)
    before = peft_model(waves())
    model.train()(waves())  # moves BatchNorm's running statistics
    model.eval()
    to_loha(model, peft_model)
    assert not torch.allclose(before, peft_model(waves()), atol=1e-3)
    assert_close(model(waves()), peft_model(waves()))
    again = from_loha(peft_model)
    assert changed(again, state(model)) == set()


@torch.no_grad()
def test_what_went_back_can_be_saved_and_loaded_by_peft(tmp_path):
    peft_model = adapted_llama()
    model = from_loha(peft_model)
    disturb(model)
    to_loha(model, peft_model)
    peft_model.save_pretrained(tmp_path)
    loaded = peft().PeftModel.from_pretrained(llama(), tmp_path).eval()  # frozen, for inference
    assert_close(loaded(ids()).logits, model(ids()).logits)
    assert factors(from_loha(loaded)).keys() == factors(model).keys()


@torch.no_grad()
def test_one_of_two_adapters():
    peft_model = adapted_llama()
    torch.manual_seed(3)
    peft_model.add_adapter("other", peft().LoHaConfig(r=2, target_modules=["q_proj", "gate_proj"], init_weights=False))
    first, model = from_loha(peft_model), from_loha(peft_model, adapter="other")
    peft_model.set_adapter("other")
    assert_close(model(ids()).logits, peft_model(ids()).logits)
    disturb(model)
    to_loha(model, peft_model, adapter="other")
    assert_close(model(ids()).logits, peft_model(ids()).logits)
    peft_model.set_adapter("default")
    assert_close(first(ids()).logits, peft_model(ids()).logits)


class Logits(nn.Module):
    """Logits as cross-entropy wants them: (batch, classes, time)."""

    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model

    def forward(self, x):
        return self.language_model(input_ids=x, use_cache=False).logits.transpose(1, 2)


def test_a_federation_sends_the_factors_and_trains_them():
    peft_model = adapted_llama()
    model = Logits(from_loha(peft_model))
    frozen = {n: x for n, x in state(model).items() if n not in factors(model)}
    numbers = sum(p.numel() for p in factors(model).values())
    assert FlatModel(model).whole.numel() == numbers
    clients = [(ids(rows), ids(rows)) for rows in (4, 6)]
    result = fb.federate(
        model, clients, fb.methods.dense(), 2, test=clients[0], local=fb.LocalSGD(lr=0.5, batch_size=2)
    )
    first, last = result.reports
    assert last.loss < first.loss
    assert 0 <= last.up_payload_bytes - 2 * 2 * 4 * numbers < 2 * 2 * 256  # two rounds of two clients in float32
    assert all(torch.equal(x, model.state_dict()[n]) for n, x in frozen.items())
    to_loha(model.language_model, peft_model)
    with torch.no_grad():
        assert_close(model.eval()(ids()), peft_model.eval()(ids()).logits.transpose(1, 2))


def test_a_bfloat16_base_takes_float32_factors():
    peft_model = adapted(llama().to(torch.bfloat16), target_modules=LINEARS)
    model = from_loha(peft_model)
    assert {p.dtype for p in factors(model).values()} == {torch.float32}
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.weight.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(model(ids()).logits, peft_model(ids()).logits, rtol=0.05, atol=0.02)


# Refusals: each names what is wrong.


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    model = from_loha(peft_model := adapted_llama())
    monkeypatch.setitem(sys.modules, "peft", None)
    for call in (lambda: from_loha(peft_model), lambda: to_loha(model, peft_model)):
        with pytest.raises(fb.LocalError, match=r"pip install 'fewbits\[peft\]'"):
            call()


@pytest.mark.parametrize("field", ["rank_dropout", "module_dropout"])
def test_dropout_is_refused_by_name(field):
    with pytest.raises(fb.LocalError, match=rf"{field} must be 0; model\.layers\.0\.\S+ has 0\.1"):
        from_loha(adapted_llama(**{field: 0.1}))


def test_modules_to_save_are_refused():
    with pytest.raises(fb.LocalError, match=r"modules_to_save must be empty; got \['lm_head'\]"):
        from_loha(adapted_llama(modules_to_save=["lm_head"]))


def test_a_merged_adapter_is_refused():
    model = from_loha(peft_model := adapted_llama())
    peft_model.merge_adapter()
    for call in (lambda: from_loha(peft_model), lambda: to_loha(model, peft_model)):
        with pytest.raises(fb.LocalError, match="has merged adapters"):
            call()


def test_what_is_no_loha_is_refused():
    with pytest.raises(fb.LocalError, match=r"expected a peft\.PeftModel; got LlamaForCausalLM"):
        from_loha(llama())
    with pytest.raises(fb.LocalError, match="found a LoraConfig"):
        from_loha(peft().get_peft_model(llama(), peft().LoraConfig(target_modules=LINEARS)))
    with pytest.raises(fb.LocalError, match=r"'mine'; found no adapter\. Adapters: default"):
        from_loha(adapted_llama(), adapter="mine")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target_modules": ["q_proj"]}, r"adapted layers differ; missing \[\], not in the PEFT model \["),
        ({"target_modules": [*LINEARS, "up_proj"]}, r"missing \['model\.layers\.0\.mlp\.up_proj"),
        ({"alpha": 3}, r"has scale 2\.0 here, but alpha/r = 1\.0"),
        ({"r": 4, "alpha": 8}, r"X1 has shape \(16, 3\); the PEFT model has shape \(16, 4\)"),
    ],
)
def test_factors_go_back_only_where_they_fit_and_else_nothing_changes(settings, match):
    other = adapted_llama(**settings)
    before = state(other)
    with pytest.raises(fb.LocalError, match=match):
        to_loha(from_loha(adapted_llama()), other)
    assert changed(other, before) == set()


def test_the_example_adapts_a_model_for_a_tenth_of_the_bytes(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    monkeypatch.setattr("loha_language_model.LONGEST", 12_000)  # letters; bytes do not depend on it
    whole, plain, few = importlib.import_module("loha_language_model").main(rounds=1, pretraining=10)
    assert plain.result.ledger.frame_bytes["up"] < whole.result.ledger.frame_bytes["up"] / 10
    assert few.result.ledger.frame_bytes["up"] < plain.result.ledger.frame_bytes["up"] / 7
    assert "written back into the PEFT model" in capsys.readouterr().out


@pytest.mark.parametrize("tucker", [False, True])
def test_merging_gives_plain_layers_that_compute_the_same(tucker):
    model = from_loha(adapted_convolutions(use_effective_conv2d=tucker))
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = fb.merge(model)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    assert_close(plain(waves()), model(waves()))
    assert plain.state_dict().keys() == Convolutions().state_dict().keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(fb.LocalError, match="has a LoRA or LoHa adapter"):
        fb.merge(plain)
