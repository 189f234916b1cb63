"""Calls that hold out a share of every client's examples for its own evaluation."""

import pytest
import torch
from torch import nn

import fewbits as fb


def test_calls_hold_out_a_share_of_every_client_and_the_same_rows_for_every_seed(tmp_path):
    x = torch.arange(240.0).reshape(60, 4) % 7
    clients = [(x[i::6], (x[i::6].sum(1) % 3).long()) for i in range(6)]
    trained = []

    def seen(model, data, context):
        trained.append(sorted(map(tuple, data[0].tolist())))

    for seed in (0, 1):
        fb.federate(nn.Linear(4, 3), clients, "dense", 1, local=seen, holdout=0.3, seed=seed)
    assert len(trained) == 12
    assert all(len(rows) == 7 for rows in trained)
    assert sorted(trained[:6]) == sorted(trained[6:])
    result = fb.federate(nn.Linear(4, 3), clients, "local", 1, test=clients[0], holdout=0.3, out=tmp_path)
    last = result.reports[-1]
    assert last.personal_least <= last.personal_median <= last.personal_ninetieth and result.notes == []
    assert "<h2>Clients</h2>" in (tmp_path / "report.html").read_text()
    named = [{"input": each, "labels": y} for each, y in clients]
    assert fb.federate(nn.Linear(4, 3), named, "dense", 1, holdout=0.3).reports[-1].personal_least is not None
    with pytest.raises(fb.LocalError, match=r"holdout must be a number in \(0, 1\)"):
        fb.federate(nn.Linear(4, 3), clients, "dense", 1, holdout=1)


def test_a_metric_of_clients_has_a_spread_where_no_accuracy_means_anything():
    x = torch.arange(120.0).reshape(40, 3) % 5
    clients = [(x[i::4], x[i::4, :1] * 2 + i) for i in range(4)]
    mse = nn.functional.mse_loss
    result = fb.federate(nn.Linear(3, 1), clients, "dense", 1, loss=mse, metric=mse, test=clients[0], holdout=0.3)
    last = result.reports[-1]
    assert last.personal_accuracy is None and last.accuracy is None
    assert last.personal_least < last.personal_metric < last.personal_ninetieth
