"""Laws of FetchSGD as a method: the server steps on the sum of tables, and only what changed travels down."""

import numpy as np
import pytest
import torch
from torch import nn

from digits_task import KEY, evidence, federation, filled, mlp, task
from fewbits.codecs import FetchSGD, MeanSketch, Raw, chain, each, flat
from fewbits.errors import LocalError
from fewbits.learn import Method
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.optimizers import FetchServer
from fewbits.links.ledger import read
from fewbits.methods import build, fetchsgd
from fewbits.methods.downlink import downlink
from fewbits.spec import Spec
from fewbits.wire.frame import HEADER_BYTES

SIZE = sum(p.numel() for p in mlp().parameters())
SMALL = {"rows": 3, "columns": 50, "k": 20}


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("feedback", ["zero", "subtract"])
def test_a_run_is_algorithm_1_by_hand(feedback):
    """S as a dense matrix; local steps by the library, everything after them in NumPy."""
    run = federation(fetchsgd(**SMALL, momentum=0.5, lr=0.7, feedback=feedback), rounds=5, per_round=4)
    sketch = MeanSketch(50, rows=3).sketch(Spec((SIZE,)))
    s = torch.stack([sketch.of(row) for row in torch.eye(SIZE)]).T.double().numpy()  # (150, SIZE)
    places = np.stack([np.flatnonzero(column) for column in s.T])  # (SIZE, 3): where each entry is added
    theta = vector(run.task.model).double().numpy()
    u, e = np.zeros(150), np.zeros(150)
    local, own = FlatModel(mlp()), run.task
    for number in range(1, 6):
        table, weight = np.zeros(150), 0
        for client in map(int, run.server.key.fold("round", number - 1, "sample").subset(4, 6)):
            local.params.copy_(torch.from_numpy(theta))
            start, rows = local.params.clone(), own.parts[client]
            own.local.train(local, own.x, own.y, rows, KEY.fold("round", number, "client", client))
            table += len(rows) * (s @ (start - local.params).double().numpy())
            weight += len(rows)
        u = 0.5 * u + table / weight
        e = 0.7 * u + e
        estimates = np.median([[e[p] / s[p, i] for p in places[i]] for i in range(SIZE)], axis=1)
        largest = np.argsort(-np.abs(estimates), kind="stable")[:20]
        delta = np.zeros(SIZE)
        delta[largest] = estimates[largest]
        touched = s @ delta != 0
        u, e = (np.where(touched, 0, u), np.where(touched, 0, e)) if feedback == "zero" else (u, e - s @ delta)
        theta = theta - delta
    np.testing.assert_allclose(vector(run.run().model), theta, atol=2e-5)


def test_where_tables_are_the_vectors_themselves_and_k_is_all_of_them_it_is_fedavg():
    method = fetchsgd(rows=1, columns=SIZE, k=SIZE, momentum=0.0)
    whole = federation(build("dense"), rounds=4).run().model
    torch.testing.assert_close(vector(federation(method, rounds=4).run().model), vector(whole), atol=1e-5, rtol=0)


def test_a_table_travels_up_and_no_more_than_k_entries_down(tmp_path):
    federation(fetchsgd(**SMALL), tmp_path, rounds=6).run()
    for entry in read(tmp_path / "ledger.jsonl"):
        if entry.direction == "up":
            assert entry.frame_bytes == HEADER_BYTES + 4 * 150
        elif entry.round > 1:
            assert entry.frame_bytes <= 4 + HEADER_BYTES + 20 * (4 + 2) + 4, "20 values, 20 places of 10 bits or less"


def normed() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))


@pytest.mark.parametrize("model", [mlp, normed])
def test_a_run_goes_on_to_the_same_bytes_whatever_the_number_of_processes(model, tmp_path):
    found = []
    for name, stops in {"whole": [7], "parts": [2, 4, 7]}.items():
        runs = []
        for processes, rounds in enumerate(stops, start=1):
            method = fetchsgd(**SMALL)
            runs.append(
                federation(
                    method, tmp_path / name, rounds=rounds, per_round=4, processes=processes, task=task(model=model)
                )
            )
            runs[-1].run()
        found.append(evidence(runs[-1]))
    assert found[0] == found[1]


def test_what_rounding_leaves_of_a_change_follows_in_the_next_round():
    """The public model is the server's but for the last bit of a few entries, and the whole of it on standing still."""
    run = federation(fetchsgd(**SMALL), rounds=6)
    run.run()
    own, public = run.server.flat.vector(), torch.cat([x.reshape(-1) for x in run.server.broadcast.value.values()])
    torch.testing.assert_close(public, own, rtol=1e-5, atol=1e-7)
    run.server.broadcast.publish(run.server.model.state_dict())
    public = torch.cat([x.reshape(-1) for x in run.server.broadcast.value.values()])
    assert torch.equal(public, run.server.flat.vector())


def test_a_round_whose_clients_all_fail_leaves_model_and_tables():
    run = federation(fetchsgd(**SMALL), rounds=1)
    before = run.server.flat.vector().clone()
    run.server.step()
    assert torch.equal(run.server.flat.vector(), before) and not any(m.any() for m in run.server.public.moments)


FRONT = MeanSketch(50, rows=3)


def with_uplink(up) -> Method:
    return Method("odd", up, downlink("dense"), FetchServer(FRONT, FetchSGD(20)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: federation(with_uplink(flat(Raw()))), "steps on sums of what MeanSketch"),
        (lambda: federation(with_uplink(flat(MeanSketch(50, rows=3, seed=8)))), "steps on sums of what MeanSketch"),
        (lambda: federation(with_uplink(each(FRONT))), "steps on sums of what MeanSketch"),
        (lambda: FetchServer(MeanSketch(50, seed=None), FetchSGD(20)), "the sketch needs a seed; got None"),
        (lambda: fetchsgd(k=0), "k must be a whole number, 1 or more"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(LocalError, match=said):
        make()


def test_any_width_of_numbers_goes_behind_the_sketch():
    result = federation(with_uplink(flat(chain(FRONT, Raw("bf16")))), rounds=3).run()
    assert result.ledger.frame_bytes["up"] == 3 * 6 * (HEADER_BYTES + 2 * 150)
    assert not result.notes and all(report.rejected == 0 for report in result.reports)
