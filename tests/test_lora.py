"""LoRA, FFA-LoRA and a core between fixed factors, on PEFT models as they are."""

import copy
import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fewbits as fb
from fewbits.engines.common.initial_model import takes_key
from late import Late

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra `peft`")
peft = Late("peft")
EXAMPLES = Path(__file__).parents[1] / "examples"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def adapted(base=None, rank=3, **options):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=rank, lora_alpha=6, target_modules=["0", "2"], **options)
    return peft.get_peft_model(base or network(), config)


def frozen_a(model):
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    return model


def people(count=3):
    draw = torch.Generator().manual_seed(2)
    return [(torch.randn(20, 12, generator=draw), torch.randint(4, (20,), generator=draw)) for _ in range(count)]


def weights(model):
    """The weights that the adapted layers compute with."""
    return [
        layer.get_delta_weight("default").detach() for layer in model.modules() if hasattr(layer, "get_delta_weight")
    ]


def trained(model, data, steps=5):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def test_a_core_begins_where_the_model_is_and_sends_its_square():
    plain, model = network(), fb.factor.lora_core(adapted())
    x = people()[0][0]
    assert_close(model(x), plain(x))
    assert [p.numel() for p in model.parameters() if p.requires_grad] == [9, 9]
    for factor in (p for name, p in model.named_parameters() if "fixed" in name):
        assert_close(factor.T @ factor, torch.eye(3))
    result = fb.federate(model, people(), "dense", rounds=1)
    assert result.reports[0].up_payload_bytes == 3 * 18 * 4


@pytest.mark.parametrize(
    ("make", "exact"),
    [(adapted, False), (lambda: frozen_a(adapted()), True), (lambda: fb.factor.lora_core(adapted()), True)],
    ids=["LoRA", "FFA-LoRA", "core"],
)
def test_the_mean_of_the_factors_is_the_mean_of_the_weights_where_one_side_is_fixed(make, exact):
    model, data = make(), people()
    if not exact:  # B is 0 at first, and then A does not move in the first step
        trained(model, data[0])
    local = fb.LocalSGD(lr=0.5, batch_size=0, steps=5)
    each = [weights(fb.federate(copy.deepcopy(model), [one], "dense", rounds=1, local=local).model) for one in data]
    together = weights(fb.federate(model, data, "dense", rounds=1, local=local).model)
    apart = max(
        float((torch.stack(of_clients).mean(0) - of_all).abs().max() / of_all.abs().max())
        for *of_clients, of_all in zip(*each, together, strict=True)
    )
    assert apart < 1e-5 if exact else apart > 1e-3


def test_a_core_is_merged_by_peft():
    model, x = trained(fb.factor.lora_core(adapted()), people()[0]), people()[1][0]
    before = model(x).detach()
    plain = model.merge_and_unload()
    assert_close(plain(x), before)
    assert plain.state_dict().keys() == network().state_dict().keys()


def test_an_adapter_that_can_have_no_core_is_named():
    with pytest.raises(fb.LocalError, match="this Sequential has no LoRA layer with an adapter 'default'"):
        fb.factor.lora_core(network())
    with pytest.raises(fb.LocalError, match="has no LoRA layer with an adapter 'other'"):
        fb.factor.lora_core(adapted(), "other")
    with pytest.raises(fb.LocalError, match="2 is 4 x 16, so its rank is 4 at most; got 5"):
        fb.factor.lora_core(model := adapted(rank=5))
    assert not any("fixed" in name for name, _ in model.named_parameters())  # nothing changed
    with pytest.raises(fb.LocalError, match="has a core already"):
        fb.factor.lora_core(fb.factor.lora_core(adapted()))
    table = peft.get_peft_model(nn.Sequential(nn.Embedding(9, 4)), peft.LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(fb.LocalError, match="is an embedding or a convolution"):
        fb.factor.lora_core(table)


def on_meta(part):
    model = adapted()
    model.get_submodule(f"base_model.model.2.{part}").to("meta")
    return model


class Empty(nn.Module):
    """What trains has no number."""

    def __init__(self):
        super().__init__()
        self.layer, self.free = nn.Linear(12, 4).requires_grad_(False), nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        return self.layer(x) + self.free.sum()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: adapted(inference_mode=True), "trains unless its config says inference_mode=True"),
        (Empty, "the module has no trainable parameter"),
        (lambda: on_meta("lora_A.default"), "lora_A.default.weight is on the device meta and has no values"),
        (lambda: on_meta("base_layer"), "base_layer.weight is on the device meta and has no values"),
        (lambda: adapted().to(torch.bfloat16), "lora_A.default.weight is torch.bfloat16; cast the model by float()"),
        (lambda key: adapted(rank=0), "it fails: ValueError: `r` should be a positive integer value"),
        (lambda key: adapted(rank_pattern={"0": 0}), "it fails: ValueError: `r` should be a positive integer value"),
    ],
    ids=["inference", "no number", "adapter elsewhere", "base elsewhere", "half", "rank 0", "rank 0 of a layer"],
)
def test_what_cannot_be_federated_is_a_sentence_before_round_1(make, sentence, tmp_path):
    model = make if takes_key(make) else make()
    with pytest.raises(fb.LocalError) as error:
        fb.federate(model, people(), "dense", rounds=1, out=tmp_path / "run")
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_tied_base_stays_tied_and_an_adapter_that_is_not_active_stays_at_home():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4))
    base[1].weight = base[0].weight
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, target_modules=["0", "2"]))
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["0"]))
    result = fb.federate(model, people(), "dense", rounds=1)
    assert result.reports[0].up_payload_bytes == 3 * 4 * (3 * 24 + 3 * 16)  # "other" does not train
    assert base[1].weight is base[0].base_layer.weight


def test_conv1d_of_transformers_has_its_matrix_the_other_way_round():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    base = nn.Sequential(Conv1D(8, 5))
    config = peft.LoraConfig(r=2, target_modules=["0"], fan_in_fan_out=True)
    model = fb.factor.lora_core(peft.get_peft_model(copy.deepcopy(base), config))
    x = torch.randn(3, 5)
    assert_close(model(x), base(x))


def test_the_example_says_what_each_adapter_costs(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr("loha_language_model.LONGEST", 12_000)  # letters; bytes do not depend on it
    found = runpy.run_path(str(EXAMPLES / "lora_language_model.py"))["main"](rounds=1, pretraining=5)
    up = {name: result.ledger.frame_bytes["up"] for name, result in found.items()}
    assert up["LoRA"] > 1.8 * up["FFA-LoRA"] and up["LoRA"] > 5 * up["core (Fed-SB)"]
    assert up["LoRA, 4 bits"] < up["LoRA"] / 7 and up["core, 4 bits"] < up["LoRA"] / 40
    assert "kB up, a turn" in capsys.readouterr().out


def pair(rank, seed, sides=(4, 6)):
    draw = torch.Generator().manual_seed(seed)
    return {
        "0.lora_A.weight": torch.randn(rank, sides[1], generator=draw),
        "0.lora_B.weight": torch.randn(sides[0], rank, generator=draw),
    }


def test_a_stack_of_several_ranks_is_the_sum_of_the_products():
    clients, weights = [pair(rank, rank) for rank in (1, 3, 2)], [0.5, 0.2, -0.3]
    stacked = fb.factor.stack_lora(clients, weights)
    products = [one["0.lora_B.weight"] @ one["0.lora_A.weight"] for one in clients]
    exact = sum(w * product for w, product in zip(weights, products, strict=True))
    assert_close(stacked["0.lora_B.weight"] @ stacked["0.lora_A.weight"], exact)
    assert stacked["0.lora_A.weight"].shape == (6, 6)


def test_the_stack_is_an_adapter_of_peft():
    clients = [trained(adapted(rank=rank, use_rslora=False), people()[i]) for i, rank in enumerate((2, 3, 1))]
    states = [peft.get_peft_model_state_dict(model) for model in clients]
    scales = [6 / rank for rank in (2, 3, 1)]  # alpha / r
    whole = adapted(rank=6)  # of scale 1
    peft.set_peft_model_state_dict(whole, fb.factor.stack_lora(states, [scale / 3 for scale in scales]))
    each = zip(*map(weights, clients), strict=True)
    for found, deltas in zip(weights(whole), each, strict=True):
        assert_close(found, torch.stack(deltas).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("adapters", "shares", "sentence"),
    [
        ([], [], "give one weight for each adapter; got 0 and 0"),
        ([pair(2, 0)], [0.5, 0.5], "give one weight for each adapter; got 2 and 1"),
        ([pair(2, 0)], [float("nan")], "a weight"),
        ([{}], [1.0], "adapter 0 must have pairs of lora_A and lora_B alone; see no lora_A"),
        ([pair(2, 0), {"1.lora_A.weight": torch.ones(2, 6)}], [1, 1], "adapter 1 must have pairs"),
        ([pair(2, 0), pair(2, 0, (4, 7))], [1, 1], "adapter 1: 0.lora_A.weight is (2, 7) with (4, 2), and adapter 0"),
        ([pair(2, 0) | {"0.lora_B.weight": torch.ones(4, 3)}], [1], "is (2, 6) with (4, 3)"),
    ],
)
def test_what_cannot_be_stacked_is_a_sentence(adapters, shares, sentence):
    with pytest.raises(fb.LocalError) as error:
        fb.factor.stack_lora(adapters, shares)
    assert sentence in str(error.value)


def test_stacking_costs_the_sum_of_the_ranks_on_the_way_down(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = runpy.run_path(str(EXAMPLES / "lora_ranks.py"))
    runs = example["main"](rounds=2, seeds=(0,))
    ranks, sides = example["RANKS"], (64 + 96) + (96 + 96) + (96 + 10)
    (_, up, down), (_, fixed, _) = runs["padding"][0][1], runs["padding, A fixed"][0][1]
    assert up == down == pytest.approx(4 * sum(ranks) * sides, rel=0.02) and fixed < up / 2
    assert runs["stacking"][0][1][1] == up
    assert runs["stacking"][0][1][2] == pytest.approx(4 * len(ranks) * sum(ranks) * sides, rel=0.02)
    assert all(run[1][0] < 11 for (run,) in runs.values()) and "before: 11" in capsys.readouterr().out


def test_an_adapter_made_from_a_key_travels_as_a_seed_at_first_and_frozen_weights_never():
    clients = [{"input": x, "labels": y} for x, y in people()]
    module, one, two = (
        fb.federate(model, clients, "topk@fraction=0.2,down=delta8", rounds=2, processes=processes)
        for model, processes in ((adapted(), 1), (lambda key: adapted(), 1), (lambda key: adapted(), 2))
    )
    assert one.ledger.frame_bytes == two.ledger.frame_bytes
    for made in (one, two):
        assert all(map(torch.equal, weights(module.model), weights(made.model)))
    numbers = sum(p.numel() for p in adapted().parameters() if p.requires_grad)
    assert module.ledger.frame_bytes["up"] == one.ledger.frame_bytes["up"]
    spared = module.ledger.frame_bytes["down"] - one.ledger.frame_bytes["down"]
    assert 3 * 4 * (numbers - 20) < spared < 3 * 4 * numbers
