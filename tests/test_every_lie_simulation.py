"""On one machine, nothing that one client's data, loss, model or training does ends a run, with a server or without."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fewbits as fb
from fewbits import topology
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.gossip import GossipRun
from fewbits.engines.simulation import Federation
from fewbits.learn.local import LocalReport, LocalSGD
from fewbits.learn.optimizers import FedAdam
from fewbits.methods import named
from fewbits.methods.gossip import gossip_method

CLIENTS, LIAR, SIZE, ROUNDS = 5, 2, 12, 2


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))


def rows():
    """The liar's labels are all 0, by which a loss knows it."""
    draws = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(SIZE, 6, generator=draws), torch.randint(1, 3, (SIZE,), generator=draws)) for _ in range(CLIENTS)
    ]
    data[LIAR] = data[LIAR][0], torch.zeros(SIZE, dtype=torch.int64)
    return data


# What is wrong with its data.


def of_data(change):
    def spoilt(data):
        data[LIAR] = change(*data[LIAR])
        return data

    return spoilt


def first(value):
    def change(x, y):
        x[0] = value
        return x, y

    return of_data(change)


DATA = {
    "one example under BatchNorm": of_data(lambda x, y: (x[:11], y[:11])),  # with batches of 10
    "labels out of range": of_data(lambda x, y: (x, y + 7)),
    "labels below 0": of_data(lambda x, y: (x, y - 7)),
    "inputs of NaN": first(math.nan),
    "infinite inputs": first(math.inf),
    "inputs of another type": of_data(lambda x, y: (x.double(), y)),
    "inputs of another shape": of_data(lambda x, y: (x[:, :5], y)),
    "no example": of_data(lambda x, y: (x[:0], y[:0])),
}

# What its loss does.


class WordlessError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raising(error):
    def act(output, y):
        raise error

    return act


def after(change):
    def act(output, y):
        change()
        raise ValueError("after")

    return act


def quietly(change):
    def act(output, y):
        change()
        return cross_entropy(output, y)

    return act


ERRORS = [
    *(RuntimeError("x"), ZeroDivisionError("x"), AssertionError("x"), KeyError("image"), IndexError(), StopIteration()),
    *(MemoryError(), RecursionError(), torch.OutOfMemoryError("x"), OSError(28, "No space left"), fb.LocalError("x")),
    *(ExceptionGroup("many", [ValueError("a")]), Warning("x"), WordlessError(), ValueError("\ud800\x1b[2J")),
    ValueError("x" * 10**6 + "\ny"),
]
LOSSES = {
    **{f"{type(error).__name__} {i}": raising(error) for i, error in enumerate(ERRORS)},
    "gradients off": after(lambda: torch.set_grad_enabled(False)),
    "gradients off, without a word": quietly(lambda: torch.set_grad_enabled(False)),
    "another default type": after(lambda: torch.set_default_dtype(torch.float64)),
    "NumPy that raises": after(lambda: np.seterr(all="raise")),
    "determinism": after(lambda: torch.use_deterministic_algorithms(True)),
    "two threads": after(lambda: torch.set_num_threads(2)),
    "a number": lambda output, y: 1.0,
    "None": lambda output, y: None,
    "many numbers": lambda output, y: output,
    "a complex number": lambda output, y: output.sum().to(torch.complex64),
    "a constant": lambda output, y: output.sum().detach(),
    "-inf": lambda output, y: output.sum() * -math.inf,
    "1e300": lambda output, y: output.double().sum() * 1e300,
}


def loss_of(act):
    return lambda output, y: act(output, y) if bool((y == 0).all()) else cross_entropy(output, y)


# What its training does after the true steps, or reports.


def says(**values):
    return lambda flat, before, report: replace(report, **values)


def filled(value):
    def act(flat, before, report):
        flat.params.fill_(value)
        return report

    return act


def moved(times):
    def act(flat, before, report):
        flat.params.copy_(before + times * (flat.params - before))
        return report

    return act


def breaking(change):
    def act(flat, before, report):
        change(flat.module)
        return report

    return act


def delete(module):
    del module[0].bias


REPORTS = {
    "no report": lambda flat, before, report: None,
    "words for a report": lambda flat, before, report: "fine",
    **{f"a loss of {x!r:.9}": says(loss=x) for x in ("low", [1.0], True, 10**400, torch.tensor(1.0))},
    **{f"{x!r:.9} steps": says(steps=x) for x in (-1, "2", None, math.nan, 10**400)},
    **{f"{x!r:.9} examples": says(examples=x) for x in (-5, 0, "20", None, True, math.nan, math.inf, torch.tensor(2))},
    "a layer replaced": breaking(lambda module: module.__setitem__(0, nn.Linear(2, 2))),
    "another shape": breaking(lambda module: setattr(module[0], "weight", nn.Parameter(torch.zeros(2, 2)))),
    "a frozen layer": breaking(lambda module: module[0].requires_grad_(False)),
    "a parameter gone": breaking(delete),
    "a parameter more": breaking(lambda module: module[0].register_parameter("more", nn.Parameter(torch.ones(2)))),
    "double": breaking(lambda module: module.double()),
    "complex": breaking(lambda module: setattr(module[0].weight, "data", module[0].weight.data.to(torch.complex64))),
}
VALUES = {
    **{f"values of {x}": filled(x) for x in (math.nan, math.inf, 3.4e38, 4.7e36, 1e14)},
    "x1000": moved(1000.0),
    "-x1000": moved(-1000.0),
}
WEIGHTS = {f"{x} examples": says(examples=x) for x in (1e308, 1e-300, 1e9, 10**400)}  # gossip has no weights
BORNE = {
    "a loss of NaN": says(loss=math.nan),
    "the sign flipped": moved(-1.0),
    "evaluation mode": breaking(nn.Module.eval),
}


class Tampered(LocalSGD):
    lie = None

    def train(self, flat, x, y, examples, key, **more):
        before = flat.params.clone()
        report = super().train(flat, x, y, examples, key, **more)
        return self.lie(flat, before, report) if self.lie and int(y[int(examples[0])]) == 0 else report


def task(lie=None, away=False):
    data = rows() if lie not in DATA else DATA[lie](rows())
    act = {**REPORTS, **VALUES, **WEIGHTS, **BORNE}.get(lie)
    local = type("Liar", (Tampered,), {"lie": staticmethod(act) if act else None, "wire_name": "liar"})(lr=0.1)
    found = Task.of(model(), data, None, local, loss_of(LOSSES[lie]) if lie in LOSSES else None)
    return replace(found, unfit={LIAR: "away"}) if away else found


def federate(method, processes=1, **more):
    return Federation(task(**more), named(method), Schedule(ROUNDS, processes=processes), fb.Key(0)).run()


def gossip(processes=1, **more):
    schedule = Schedule(ROUNDS, processes=processes)
    return GossipRun(task(**more), gossip_method("choco"), topology.ring(CLIENTS), schedule, fb.Key(0)).run()


def weights(module):
    return torch.cat([x.detach().reshape(-1) for x in module.state_dict().values()])


METHODS = ("dense", "topk@fraction=0.5", "fedadam", "scaffold", "lbgm", "median", "masked", "dp@clip=1,noise=0.1")


@pytest.fixture(scope="module")
def away():
    """The outcomes of runs without the liar."""
    found = {method: weights(federate(method, away=True).model) for method in METHODS}
    return found | {"gossip": gossip(away=True).models.clone()}


SKIPPED = [*DATA, *LOSSES, *REPORTS]


@pytest.mark.parametrize("lie", [*SKIPPED, *VALUES, *WEIGHTS])
def test_with_a_server_a_lie_costs_its_client_the_turn_and_nobody_else_anything(lie, away):
    unseen = ("masked", "dp@clip=1,noise=0.1") if lie in (*VALUES, *WEIGHTS) else ()  # masks hide, and noise covers
    at = [*SKIPPED, *VALUES, *WEIGHTS].index(lie)
    for method in {METHODS[at % len(METHODS)], "fedadam"} - set(unseen):
        result = federate(method, 1 + (at % 10 == 0), lie=lie)
        assert [r.clients for r in result.reports] == [CLIENTS - 1] * ROUNDS
        assert [r.skipped + r.rejected for r in result.reports] == [1] * ROUNDS
        (note,) = {note for note in result.notes if note.startswith(f"round 1: client {LIAR} was ")}
        assert len(note) < 600 and note.isprintable()
        assert torch.equal(weights(result.model), away[method])
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32 and np.geterr()["over"] == "warn"


@pytest.mark.parametrize("lie", SKIPPED)
def test_without_a_server_a_lie_costs_its_node_the_step_and_nobody_else_anything(lie, away):
    result = gossip(1 + (SKIPPED.index(lie) % 10 == 9), lie=lie)
    if lie.endswith("examples") and lie != "no example":
        return  # nobody is weighed
    assert [r.skipped for r in result.reports] == [1] * ROUNDS
    assert len([note for note in result.notes if note.startswith(f"round 1: node {LIAR} took no step")]) == 1
    assert torch.equal(result.models, away["gossip"])


@pytest.mark.parametrize("lie", BORNE)
def test_a_lie_that_cannot_be_seen_ends_nothing(lie):
    for method in METHODS:
        result = federate(method, lie=lie)
        assert [r.clients for r in result.reports] == [CLIENTS] * ROUNDS
        assert bool(torch.isfinite(weights(result.model).float()).all())
        assert all(r.train_loss is not None for r in result.reports)


def test_leaving_the_range_of_float32_voids_the_round_and_is_said():
    method = fb.Method.of(fb.Raw(), optimizer=FedAdam(lr=1e38, beta1=0.0, beta2=0.9999))
    given = task()
    result = Federation(given, method, Schedule(ROUNDS, processes=1), fb.Key(0)).run()
    assert torch.equal(weights(result.model), weights(model())) and [r.clients for r in result.reports] == [0] * ROUNDS
    assert any("is void: Server.step" in note and "leaves float32's range" in note for note in result.notes)


def test_a_report_may_have_numbers_of_numpys():
    report = LocalReport(np.int64(2), np.int32(20), np.float32(0.5))
    lied = type("Liar", (Tampered,), {"lie": staticmethod(lambda *_: report), "wire_name": "liar"})(lr=0.1)
    result = Federation(replace(task(), local=lied), named("dense"), Schedule(1, processes=2), fb.Key(0)).run()
    assert result.reports[0].clients == CLIENTS
