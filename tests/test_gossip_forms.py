"""fb.gossip takes the model, the data and the local training that fb.federate takes; its result has the same face."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import fewbits as fb

RING = fb.topology.ring(4)
DRAW = torch.Generator().manual_seed(0)
ROWS = [(x := torch.randn(12, 5, generator=DRAW), x[:, :3].argmax(1)) for _ in range(5)]


class Named(nn.Linear):
    """Computes its own loss, as Hugging Face's models do."""

    def forward(self, input, labels=None):
        logits = super().forward(input)
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


def model(key):
    return Named(5, 3)


def fields(pair):
    return dict(zip(("input", "labels"), pair, strict=True))


def loader(pair):
    return DataLoader([{"input": x, "labels": y} for x, y in zip(*pair, strict=True)], batch_size=4, shuffle=True)


FORMS = {
    "dict": fields,
    "loader": loader,
    "list": lambda pair: list(zip(*pair, strict=True)),
    "pair": lambda pair: pair,
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_trains_with_the_same_bytes_on_any_number_of_processes_and_goes_on(form, tmp_path):
    *nodes, test = [FORMS[form](pair) for pair in ROWS]
    local = fb.LocalSGD(lr=0.1, steps=2)

    def run(rounds=2, **more):
        return fb.gossip(model, nodes, RING, "malcom@gamma=0.5", rounds, test=test, local=local, seed=3, **more)

    one, two = run(), run(processes=2)
    assert one.bytes == two.bytes and torch.equal(one.models, two.models)
    assert one.accuracy is not None and one.loss is not None and one.reports[-1].stationarity > 0 and not one.notes
    run(1, out=tmp_path)
    assert torch.equal(run(out=tmp_path).models, one.models)


def test_forms_of_the_same_examples_give_the_same_models():
    local = fb.LocalTraining(torch.optim.Adam, batch_size=0)
    found = []
    for form in ("dict", "list", "pair"):
        nodes = [FORMS[form](pair) for pair in ROWS[:4]]
        result = fb.gossip(model, nodes, RING, "choco@gamma=0.5", 2, local=local, loss=cross_entropy)
        found.append((result.models, result.reports[-1].stationarity))
    (models, stationarity), *others = found
    assert all(torch.equal(models, other) for other, _ in others)
    assert all(other == pytest.approx(stationarity, rel=1e-5) for _, other in others)


def cross_entropy(output, y):
    return nn.functional.cross_entropy(output["logits"], y)


def test_a_model_of_a_key_follows_the_seed_and_nodes_may_be_a_function():
    def run(seed):
        return fb.gossip(model, ROWS.__getitem__, RING, "dsgd", 1, seed=seed)

    first, again, other = run(0), run(0), run(1)
    assert torch.equal(first.models, again.models) and not torch.equal(first.models, other.models)
    assert isinstance(first.model, Named)


def test_a_function_of_the_users_trains_a_node_and_gets_its_own_data():
    seen = []

    def train(model, data, context):
        seen.append((context.client, data is nodes[context.client]))
        nn.functional.cross_entropy(model(data["input"])["logits"], data["labels"]).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()

    nodes = [fields(pair) for pair in ROWS[:4]]
    result = fb.gossip(model, nodes, RING, "dsgd", 1, local=train)
    assert seen == [(i, True) for i in range(4)] and result.notes == []


@pytest.mark.parametrize(
    ("method", "local", "said"),
    [
        ("malcom", fb.LocalTraining(torch.optim.Adam), "the proximal step of Malcom computes with the learning rate"),
        ("dsgd", fb.LocalTraining(torch.optim.Adam, keep_optimizer=True), "leave out keep_optimizer"),
    ],
)
def test_local_training_that_a_method_cannot_use_is_refused(method, local, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.gossip(model, ROWS[:4], RING, method, 1, local=local)


def test_malcom_without_a_regulariser_takes_any_optimizer():
    local = fb.LocalTraining(torch.optim.Adam)
    assert len(fb.gossip(nn.Linear(5, 3), ROWS[:4], RING, "malcom@mu=0", 1, local=local).reports) == 1


def test_errors_name_nodes():
    with pytest.raises(fb.LocalError, match="node 1 must be"):
        fb.gossip(model, [fields(ROWS[0]), "text", *ROWS[:2]], RING, "dsgd", 1)
    with pytest.raises(fb.LocalError, match="the network has 4 nodes, but the data has 3 parts"):
        fb.gossip(model, [fields(pair) for pair in ROWS[:3]], RING, "dsgd", 1)


def test_the_result_has_the_face_of_a_run_with_a_server():
    *nodes, test = ROWS
    result = fb.gossip(nn.Linear(5, 3), nodes, RING, "dsgd", 2, test=test, metric=fb.metrics.f1)
    line = str(result)
    assert re.fullmatch(r"rounds 2, accuracy [\d.]+%, f1 [\d.]+, test loss [\d.]+, MB sent \S+, MB links \S+", line)
    assert "<table" in result._repr_html_() and result.bytes == result.reports[-1].frame_bytes
    history = fb.federate(nn.Linear(5, 3), nodes, "dense", 1, test=test).history
    assert set(history.columns[:3]) <= set(result.history.columns) and list(result.history["bytes"]) == [
        report.frame_bytes for report in result.reports
    ]
    (axes,) = result.plot("loss").axes
    assert "each frame once" in axes.get_xlabel() and axes.get_ylabel() == "test loss"
