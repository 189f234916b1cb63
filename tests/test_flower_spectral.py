"""Spectral norm on Flower: its singular vectors are computed anew from the mean weight, or a note names them."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn.utils import spectral_norm as hooked
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, mod
from fewbits.engines.flower.layout import EXACT, Layout
from fewbits.learn.unit_vectors import names_of_vectors
from flower_task import grid

LAYERS = {
    "parametrized": lambda: spectral_norm(nn.Linear(6, 4)),
    "hooked": lambda: hooked(nn.Linear(6, 4)),
    "square": lambda: spectral_norm(nn.Linear(5, 5)),
    "convolution": lambda: spectral_norm(nn.Conv2d(2, 3, 2)),
    "transposed, square": lambda: spectral_norm(nn.ConvTranspose2d(3, 3, 2)),
    "transposed, hooked": lambda: hooked(nn.ConvTranspose1d(3, 4, 2)),
}


def build(kind):
    torch.manual_seed(3)
    return nn.Sequential(LAYERS[kind](), nn.Linear(2, 2)) if kind in LAYERS else kind()


def matrix(weight, transposed):
    x = np.moveaxis(weight, 1, 0) if transposed else weight
    return x.reshape(len(x), -1)


def client_app(method, transposed):
    """Each client has another weight, with the singular vectors of that."""
    app = ClientApp(mods=[mod(method)])

    @app.train()
    def train(message, context):
        draws = np.random.default_rng(int(context.node_config["partition-id"]))
        arrays = {name: x.numpy() for name, x in message.content["arrays"].items()}
        for each in names_of_vectors(arrays):
            weight = arrays[each.weight] + 0.1 * draws.normal(size=arrays[each.weight].shape)
            left, _, right = np.linalg.svd(matrix(weight, transposed))
            arrays |= {each.weight: weight, each.u: left[:, 0], each.v: right[0]}
        found = ArrayRecord({name: Array(x.astype(np.float32)) for name, x in arrays.items()})
        metrics = MetricRecord({"num-examples": 5, "loss": 1.0})
        return Message(RecordDict({"arrays": found, "metrics": metrics}), reply_to=message)

    return app


def trained(strategy, method, module, folder, transposed=False):
    server_grid = grid(client_app(method, transposed), folder, 3)
    return strategy.start(server_grid, ArrayRecord(module.state_dict()), num_rounds=1, timeout=5).arrays


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("how", ["compress", "federated"])
def test_singular_vectors_are_those_of_the_mean_weight(tmp_path, kind, how):
    method, module = methods.named("dense" if kind == "hooked" else "topk@fraction=1.0"), build(kind)
    if how == "compress":
        strategy = Compressed(FedAvg(fraction_evaluate=0.0), method)
    else:
        strategy = Federated(method, 3, evaluate=0.0)
    transposed = kind.startswith("transposed")
    arrays = trained(strategy, method, module, tmp_path, transposed)
    found = {name: x.numpy() for name, x in arrays.items()}
    ((weight, u, v),) = names_of_vectors(found)
    mean = matrix(found[weight], transposed)
    assert found[u] @ mean @ found[v] == pytest.approx(np.linalg.norm(mean, 2), rel=1e-4)
    assert [np.linalg.norm(found[name]) for name in (u, v)] == pytest.approx([1.0, 1.0])
    assert not np.allclose(mean, matrix(module.state_dict()[weight].numpy(), transposed))
    assert not [note for note in strategy.channel.notes if "singular" in note]


def test_singular_vectors_whose_matrix_is_no_array_are_named_once(tmp_path):
    method, module = methods.named("dense"), nn.Sequential(spectral_norm(weight_norm(nn.Linear(6, 4))))
    strategy = Compressed(FedAvg(fraction_evaluate=0.0), method)
    trained(strategy, method, module, tmp_path)
    (note,) = strategy.channel.notes
    assert "0.parametrizations.weight.1._u, 0.parametrizations.weight.1._v stands for singular vectors" in note


def test_no_lossy_codec_touches_singular_vectors():
    layout = Layout.of(ArrayRecord(build("parametrized").state_dict()))
    assert [e.name.rpartition(".")[2] for e in layout.entries if e.kind == EXACT] == ["_u", "_v"]


@pytest.mark.parametrize("names", [["tau", "v"], ["w_u", "w_v"], ["w_u", "w_orig"], ["a_u", "a_v", "b_orig"]])
def test_other_names_are_no_singular_vectors(names):
    assert names_of_vectors(names) == []
