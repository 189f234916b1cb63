"""`fewbits export --merged` of PEFT models: plain weights that compute what the adapted model does."""

import copy
import importlib
import importlib.util
import json
import sys
import warnings
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import fewbits as fb
from late import Late
from test_cli import call

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra `peft`")
peft, transformers = Late("peft"), Late("transformers")
IDS = torch.randint(50, (6, 12), generator=torch.Generator().manual_seed(0))
OWN = """
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

def base():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

def model():
    return get_peft_model(base(), LoraConfig(r=2, target_modules=["0", "2"]))

def of_key(key):
    return model()

def data():
    x = torch.randn(40, 8)
    return [(x[i::4], x[i::4, :3].argmax(1)) for i in range(4)], (x, x[:, :3].argmax(1))
"""


def causal(**options):
    torch.manual_seed(0)
    sizes = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True, **options)
    return peft.get_peft_model(transformers.GPT2LMHeadModel(sizes), lora)


def classifier():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    base = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes))
    return peft.get_peft_model(base, peft.LoraConfig(r=4, use_rslora=True, task_type="SEQ_CLS"))


def federated(model: Any, out: Any, method: str = "dense") -> Any:
    labels = IDS if "LM" in type(model.get_base_model()).__name__ else IDS[:, 0] % 2
    clients = [{"input_ids": IDS[i::2], "labels": labels[i::2]} for i in range(2)]
    local = fb.LocalTraining(lambda parameters: torch.optim.AdamW(parameters, 0.1), epochs=3)
    return fb.federate(model, clients, method, 2, local=local, out=out).model.eval()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(run, *more):
    """The module that the printed lines load."""
    names = {}
    exec(call("export", run, "--merged", "plain.safetensors", *more).split("it loads by")[1], names)
    return names["model"].eval()


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (causal, "dense"),
        (lambda: causal(use_rslora=True), "topk@fraction=0.2,down=delta8"),
        (lambda: fb.factor.lora_core(causal()), "dense"),
        (classifier, "dense"),
        (causal, "intrinsic@dim=50"),
    ],
    ids=["LoRA", "rank-stabilised", "core", "classifier", "subspace"],
)
def test_a_federated_model_of_transformers_loads_by_the_lines_printed(make, method):
    model = federated(make(), "run", method)
    plain = loaded("run")
    with torch.no_grad():
        assert_close(plain(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
        assert type(plain) is type(model.get_base_model())
        model.disable_adapter_layers()
        assert not torch.allclose(model(IDS).logits, plain(IDS).logits, atol=1e-2)


def test_a_module_of_the_users_own_gets_weights_of_its_own_names(folder):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=["0"]))
    x = torch.randn(20, 8)
    fb.federate(model, [(x, x[:, :3].argmax(1))], "dense", 2, out="run")
    printed = call("export", "run", "--merged", "plain.safetensors")
    assert "model = Sequential(...)  # as it was made, before the adapter" in printed
    base.load_state_dict(load_file("plain.safetensors"))
    assert_close(base(x), model(x), rtol=1e-5, atol=1e-5)
    assert not (folder / "plain.config.json").exists()


@pytest.mark.parametrize("name", ["model", "of_key"])
def test_a_run_of_the_command_loads_by_the_function(folder, monkeypatch, name):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_lora_task", raising=False)
    (folder / "own_lora_task.py").write_text(OWN)
    own = ["--model", f"own_lora_task:{name}", "--data", "own_lora_task:data", "--optimizer", "adam@lr=0.05"]
    call("train", *own, "--rounds", "2", "--processes", "1", "--out", "run")
    plain = loaded("run")
    task = importlib.import_module("own_lora_task")
    adapted = task.model()
    adapted.load_state_dict(load_file("run/model.safetensors"))
    x = torch.randn(9, 8)
    assert_close(plain(x), adapted.eval()(x), rtol=1e-5, atol=1e-5)
    assert isinstance(plain, nn.Sequential) and plain.state_dict().keys() == task.base().state_dict().keys()


def test_merge_makes_a_plain_copy_of_a_peft_model():
    model = federated(causal(), None)
    before = model(IDS).logits
    plain = fb.merge(model).eval()
    assert_close(plain(IDS).logits, before, rtol=1e-5, atol=1e-5)
    assert_close(model(IDS).logits, before)
    assert not any("lora" in name for name in plain.state_dict())


def test_what_cannot_be_merged_is_a_sentence(folder):
    federated(causal(), "run")
    assert "one model for all clients" in call("export", "run", "--merged", "x", "--client", "1", code=2)
    linear = nn.Sequential(nn.Linear(8, 3))
    x = torch.randn(20, 8)
    fb.federate(linear, [(x, x[:, :3].argmax(1))], "dense", 1, out="plain")
    assert "no LoRA adapter" in call("export", "plain", "--merged", "x", code=2)
    dora = peft.get_peft_model(linear, peft.LoraConfig(r=2, target_modules=["0"], use_dora=True))
    fb.federate(dora, [(x, x[:, :3].argmax(1))], "dense", 1, out="dora")
    assert "a variant of LoRA, such as DoRA" in call("export", "dora", "--merged", "x", code=2)
    assert not (folder / "x").exists()
    base = causal().unload()
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        tied = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["lm_head"]))
    federated(tied, "tied")
    assert "lm_head.base_layer.weight is the weight of" in call("export", "tied", "--merged", "x", code=2)
    with pytest.raises(fb.LocalError, match=r"merge: .*wte.*the adapter is for one of them"):
        fb.merge(tied)


def test_a_tied_head_that_trains_whole_is_refused(folder):
    torch.manual_seed(0)
    base = causal().unload()
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["lm_head"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT may say so, too
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, **options))
    federated(model, "run")
    assert "lm_head.original_module.weight is the weight of" in call("export", "run", "--merged", "x", code=2)


def test_modules_of_the_user_may_have_the_names_of_adapters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.lora_head, self.base_layer = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.base_layer(self.lora_head(self.body(x)))

    torch.manual_seed(0)
    model, x = peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["body"])), torch.randn(20, 8)
    fb.federate(model, [(x, x[:, :3].argmax(1))], "dense", 2, out="run")
    call("export", "run", "--merged", "plain.safetensors")
    plain = Net()
    plain.load_state_dict(load_file("plain.safetensors"))
    assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"layers": 3}'])
def test_a_damaged_description_is_a_sentence(folder, text):
    federated(causal(), "run")
    tensors = load_file("run/model.safetensors")
    save_file(tensors, "run/model.safetensors", {"adapters": text})
    assert "the description of its adapters is damaged" in call("export", "run", "--merged", "x", code=2)


def test_a_description_of_other_tensors_is_a_sentence(folder):
    federated(causal(), "run")
    from safetensors import safe_open

    with safe_open("run/model.safetensors", "pt") as file:
        found = json.loads(file.metadata()["adapters"])
    tensors = load_file("run/model.safetensors")
    for changed in ({"layers": {"nowhere": {"default": 1.0}}}, {"layers": {next(iter(found["layers"])): 3}}):
        save_file(tensors, "run/model.safetensors", {"adapters": json.dumps(found | changed)})
        assert "not as the file describes them" in call("export", "run", "--merged", "x", code=2)


def test_an_adapter_that_peft_cannot_merge_is_said():
    config = peft.LoraConfig(r=2, target_modules=["0"], lora_bias=True)
    with pytest.warns(UserWarning, match="merging LoRA weights won't be possible"):
        model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 3, bias=False)), config)
    with pytest.raises(fb.LocalError, match="PEFT cannot merge this adapter"):
        fb.merge(model)
