"""A client's turn that fails costs that turn: whatever its model, loss or data does, the others go on."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fewbits as fb
from fewbits import topology
from fewbits.engines.common.failed_turn import Notes, common_failure
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.distributed import DistributedRun, World, heartbeat
from fewbits.engines.gossip import GossipRun
from fewbits.engines.simulation import Federation
from fewbits.json_text import json_text
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.methods.gossip import gossip_method
from fewbits.report import Record
from nodes import processes, run_all

MARK = 9.0  # the first feature of a client that fails
CLIENTS, LIAR = 5, 2


def model(seed=0):
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return module


def rows(clients=CLIENTS, size=12):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(1, 3, (size,), generator=generator))
        for _ in range(clients)
    ]


def raising(error):
    """A loss that raises on the marked client."""

    def loss(output, y):
        if bool((y == 0).all()):
            raise error
        return cross_entropy(output, y)

    return loss


def weird(output, y):
    """Divides by the number of targets that are not 0."""
    return cross_entropy(output, y) * (len(y) / int((y != 0).sum()))


def assertive(output, y):
    assert not bool((y == 0).all()), "labels of one kind"
    return cross_entropy(output, y)


def zeros(data):
    x, y = data[LIAR]
    data[LIAR] = x, torch.zeros_like(y)
    return data


def out_of_range(data):
    data[LIAR][1][3] = 7
    return data


def lonely(data):
    data[LIAR] = tuple(part[:11] for part in data[LIAR])  # with batches of 10 the last has one example
    return data


def spoilt(value):
    def change(data):
        data[LIAR][0][0] = value
        return data

    return change


LIES = {
    "one example under BatchNorm": (lonely, None, "ValueError: Expected more than 1 value per channel"),
    "label out of range": (out_of_range, None, "IndexError: Target 7 is out of bounds"),
    "RuntimeError": (zeros, raising(RuntimeError("not today")), "RuntimeError: not today"),
    "ZeroDivisionError": (zeros, weird, "ZeroDivisionError: division by zero"),
    "AssertionError": (zeros, assertive, "AssertionError: labels of one kind"),
    "KeyError": (zeros, raising(KeyError("image")), "KeyError: 'image'"),
    "an error of this library": (zeros, raising(fb.LocalError("a label is missing")), "LocalError: a label is missing"),
    "no memory": (zeros, raising(torch.OutOfMemoryError("CUDA out of memory")), "CUDA out of memory"),
    "NaN": (spoilt(math.nan), None, "NaN"),
    "inf": (spoilt(math.inf), None, "NaN"),
}


def task(data, module=None, loss=None, **local):
    return Task.of(module or model(), data, None, LocalSGD(**{"lr": 0.1, **local}), loss)


def weights(module):
    return torch.cat([x.detach().reshape(-1) for x in module.state_dict().values()])


def test_the_others_train_as_if_the_failing_client_were_not_there():
    """Its turn leaves nothing behind: no statistics, no counters, no noise."""
    data = [(x, y) for i, (x, y) in enumerate(zeros(rows())) if i != LIAR]
    loss, found = raising(ValueError("no")), []
    for without in (False, True):
        given = Task.of(model(), zeros(rows()), None, LocalSGD(lr=0.1), loss)
        if without:
            given.parts.pop(LIAR)
            given.parts.insert(LIAR, given.parts[0][:0])
        found.append(given)
    whole = Federation(found[0], fb.methods.dense(), Schedule(2, processes=1), fb.Key(0)).run()
    server_model, key = model(), fb.Key(0)
    flat = FlatModel(server_model)
    for round in (1, 2):
        start, total = flat.vector(), torch.zeros(len(flat.whole), dtype=torch.float64)
        for client in (0, 1, 3, 4):
            alone = FlatModel(model())
            alone.load_vector(start)
            LocalSGD(lr=0.1).train(
                alone, found[0].x, found[0].y, found[0].parts[client], key.fold("round", round, "client", client)
            )
            total += (start - alone.whole).double() * 12
        flat.load_vector((start.double() - total / 48).float())
    assert len(data) == 4
    torch.testing.assert_close(FlatModel(whole.model).whole, flat.whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pfedpara", "lbgm+topk", "scaffold", "topk@fraction=0.3"])
def test_what_a_client_keeps_stays_while_its_turns_fail(method):
    """A client that fails in round 2 of 3 ends as one whose frame of round 2 never was."""
    calls = []

    def loss(output, y):
        if bool((y == 0).all()):
            calls.append(1)
            if len(calls) == 3:  # the first batch of its second turn: a turn has two
                raise ValueError("not in this round")
        return cross_entropy(output, y)

    module = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    result = fb.federate(module, zeros(rows()), method, 4, loss=loss, seed=3)
    assert [r.skipped for r in result.reports] == [0, 1, 0, 0]
    assert [r.rejected for r in result.reports] == [0] * 4, "both ends of the link still agree"
    assert torch.isfinite(weights(result.model).float()).all()


def test_what_all_clients_raise_alike_in_round_1_is_the_tasks_fault():
    def loss(output, y):
        if len(y) == 2:  # the last batch of 12 examples, which the look at one batch before round 1 does not reach
            return undefined_name(output, y)  # noqa: F821
        return cross_entropy(output, y)

    for count in (1, 2):
        with pytest.raises(fb.LocalError, match=r"every client of round 1 failed alike.*Client 0: NameError.*line \d+"):
            fb.federate(model(), rows(), "dense", 3, loss=loss, processes=count)
    with pytest.raises(fb.LocalError, match=r"every node failed alike in round 1.*Node 0: NameError"):
        fb.gossip(model(), rows(), topology.ring(5), "choco", 2, loss=loss, local=LocalSGD(lr=0.1))


@pytest.mark.parametrize("batch_size,size", [(11, 12), (1, 12), (0, 1)])
def test_a_last_batch_of_one_row_under_batch_norm_is_said_with_what_to_do(batch_size, size):
    local = LocalSGD(lr=0.1, batch_size=batch_size)
    ways = [
        lambda: fb.federate(model(), rows(size=size), "dense", 3, local=local, processes=1),
        lambda: fb.gossip(model(), rows(size=size), topology.ring(5), "choco", 2, local=local),
    ]
    for way in ways:
        with pytest.raises(fb.LocalError, match="Expected more than 1 value per channel") as error:
            way()
        for word in ("two rows or more in a batch", "batch_size", "drop_last", "GroupNorm"):
            assert word in str(error.value)
        assert len(str(error.value)) < 600


def test_one_client_with_a_last_batch_of_one_row_hears_what_to_do():
    result = fb.federate(model(), lonely(rows()), "dense", 1, processes=1)
    (note,) = [note for note in result.notes if "was skipped: " in note]
    assert "choose a batch_size that leaves no last batch of one row" in note and "drop_last" in note


def test_a_few_bad_clients_that_fill_a_small_sample_do_not_end_the_run():
    result = fb.federate(model(), zeros(rows()), "dense", 6, loss=raising(ValueError("no")), per_round=1, seed=1)
    assert {r.clients for r in result.reports} == {0, 1}, "the liar was alone in a round"
    assert all((r.train_loss is None) == (r.clients == 0) for r in result.reports)


def test_common_failure_needs_all_clients_or_five():
    assert common_failure(["a 1", "a 2"], 2, 2) == "a 1"
    assert common_failure(["a 1", "b 2"], 2, 2) is None
    assert common_failure(["a"], 1, 10) is None
    assert common_failure(["a"] * 5, 5, 100) == "a"
    assert common_failure([], 0, 5) is None


def test_a_run_in_which_nobody_counts_has_no_loss_and_says_so(tmp_path):
    data = [(torch.full((12, 6), math.nan), y) for _, y in rows()]
    result = fb.federate(model(), data, "dense", 2, out=tmp_path)
    assert [(r.clients, r.skipped, r.train_loss, r.diverged) for r in result.reports] == [(0, 5, None, True)] * 2
    assert any("no client counted in any round" in note for note in result.notes)
    assert torch.equal(weights(result.model), weights(model()))
    record = Record.read(tmp_path, "dense", 0)
    assert record.summary()["diverged"] is True and record.diverged


def test_keyboard_interrupts_and_exits_end_the_run():
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)):
            fb.federate(model(), zeros(rows()), "dense", 2, loss=raising(error))


# --- Without a server


def test_without_a_server_a_node_that_fails_takes_no_step_and_still_exchanges():
    for lie, method in (("KeyError", "choco@momentum=0.5"), ("inf", "choco@momentum=0.5"), ("NaN", "malcom")):
        change, loss, sentence = LIES[lie]
        given = task(change(rows()), loss=loss)
        result = GossipRun(given, gossip_method(method), topology.ring(5), Schedule(3, processes=1), fb.Key(0)).run()
        (note,) = [note for note in result.notes if note.startswith(f"round 1: node {LIAR} took no step: ")]
        assert sentence in note or "not finite" in note
        assert result.ledger.messages["up"] == 15 and torch.isfinite(result.models).all()


def test_a_node_whose_train_returns_0_keeps_its_model_and_its_momentum():
    pair = [
        fb.learn.Node(nn.Linear(2, 1), fb.learn.Choco(momentum=0.9), topology.ring(2), i, fb.Key(0)) for i in (0, 1)
    ]

    def step(flat):
        flat.params.sub_(0.1)
        return 0.1

    def failing(flat):
        flat.params.fill_(math.nan)
        return 0.0

    for round in range(2):
        frames = [pair[0].step(step), pair[1].step(failing if round else step)]
        velocity = pair[1].vectors.velocity.clone() if round else None
        for node in pair:
            for j in node.expected:
                node.receive(j, frames[j])
            node.mix()
    assert torch.equal(pair[1].vectors.velocity, velocity) and torch.isfinite(pair[1].flat.params).all()


@pytest.mark.parametrize(
    "lie", ["one example under BatchNorm", "label out of range", "KeyError", "ZeroDivisionError", "NaN", "inf"]
)
def test_over_a_network_a_node_that_fails_keeps_nobody_waiting_and_the_models_are_those_of_one_process(
    monkeypatch, lie
):
    monkeypatch.setattr(heartbeat, "GRACE", 1.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    change, loss, sentence = LIES[lie]
    method, ring, schedule = gossip_method("choco"), topology.ring(3), Schedule(3, evaluate_every=2, processes=1)

    def given():
        return task(change(rows(3)), loss=loss)

    def act(process):
        with World(process) as world:
            result = DistributedRun(given(), method, ring, schedule, fb.Key(0), None, world).run()
        return [result.models.tolist(), result.notes, [r.skipped for r in result.reports]]

    expected = GossipRun(given(), method, ring, schedule, fb.Key(0)).run()
    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    models, notes, skipped = outcomes[0].value
    assert torch.equal(torch.tensor(models), expected.models)
    assert skipped == [2, 1], "over a network a line counts the rounds since the one before"
    assert [note for note in notes if "reported" not in note] == [n for n in expected.notes if "reported" not in n]
    assert notes[0].startswith(f"round 1: node {LIAR} took no step: ")
    assert sentence in notes[0] or "not finite" in notes[0]


# --- A loop by hand


def test_in_a_hand_written_loop_the_next_bundle_repairs_what_a_failing_training_left():
    server = fb.Server(model(), "topk@fraction=0.5", fb.Key(0))
    clients = [fb.Client(model(), "topk@fraction=0.5", fb.Key(i + 1), i) for i in range(2)]
    for round in range(3):
        for i, client in enumerate(clients):
            client.receive(server.bundle(i))
            try:
                with torch.no_grad():
                    for p in client.model.parameters():
                        p.add_(0.1)
                        if (round, i) == (1, 1):
                            p.fill_(math.nan)
                            raise ValueError("a bad batch")
            except ValueError:
                continue
            assert server.accept(i, client.reply(), 10) is not None
        server.step()
    assert not server.rejected and torch.isfinite(weights(server.model)).all()


# --- Losses without targets


def masked(output, y):
    """Means over targets that are not -100, as many write it: 0/0 without any."""
    known = y != -100
    each = cross_entropy(output, y.clamp(min=0), reduction="none")
    return (each * known).sum() / known.sum()


@pytest.mark.parametrize("loss", [None, masked], ids=["torch", "written by hand"])
def test_a_batch_without_targets_moves_nothing_and_is_left_out_of_the_mean(loss):
    data = rows(2, 24)
    for _, y in data:
        y[:20] = -100
    result = fb.federate(model(), data, "dense", 2, loss=loss)
    assert [(r.clients, r.skipped) for r in result.reports] == [(2, 0)] * 2
    assert all(0 < r.train_loss < 10 for r in result.reports)
    assert any("local steps had no target that counts; train_loss leaves them out" in x for x in result.notes)


def test_a_client_without_any_target_has_no_loss():
    report = LocalSGD(lr=0.1).train(
        FlatModel(model()), torch.randn(20, 6), torch.full((20,), -100), np.arange(20), fb.Key(0)
    )
    assert (report.loss, report.without_loss, report.without_target, report.steps) == (None, 2, 2, 2)


# --- Files


def test_no_file_of_a_run_has_a_number_that_is_not_finite(tmp_path):
    data = rows(2, 24)
    for _, y in data:
        y[:] = -100
    test = data[0]
    fb.federate(model(), data, "dense", 2, test=test, out=tmp_path / "federate")
    fb.gossip(model(), data, topology.ring(2), "dsgd", 2, test=test, out=tmp_path / "gossip")
    texts = [p for p in tmp_path.rglob("*") if p.suffix in (".json", ".jsonl")]
    assert len(texts) > 6
    for path in texts:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            json.loads(line, parse_constant=lambda name, path=path: pytest.fail(f"{path} holds {name}"))


def test_json_text_is_that_of_json_but_for_numbers_that_are_not_finite():
    value = {"b": [1, 2.5, None, "é"], "a": {"c": (True, 0.1)}}
    assert json_text(value) == json.dumps(value)
    assert json_text(value, indent=2, sort_keys=True) == json.dumps(value, indent=2, sort_keys=True)
    assert json_text(value, ascii=False) == json.dumps(value, ensure_ascii=False)
    assert json_text([math.nan, {"x": -math.inf}, (math.inf,)]) == '[null, {"x": null}, [null]]'


def test_notes_say_each_kind_once():
    notes = Notes(["round 1: client 3 was skipped: A: size 4"])
    assert notes.new(["round 2: client 3 was skipped: A: size 9", "round 2: B", "round 3: B"]) == ["round 2: B"]
    assert notes.new(["round 9: B"]) == []


def test_notes_name_each_client_once_and_those_of_a_round_together():
    def about(round, *clients):
        return [f"round {round}: client {client} was skipped: A: size {client}" for client in clients]

    notes = Notes()
    said = notes.new(about(1, 3, 4, 12))
    assert said == ["round 1: client 3 was skipped: A: size 3; likewise 4, 12"]
    for later in (notes, Notes(said)):
        assert later.new(about(2, 12, 4, 3)) == []
        assert later.new(about(3, 3, 5)) == about(3, 5)


# Who may write JSON by the library's own function, because no float from training reaches it.
WHOLE = {
    "engines/common/processes.py": "pipes between forked processes of one program, where NaN must arrive as NaN",
    "cli/run_file.py": "options of a command, as TOML",
    "engines/common/run_lock.py": "a process's number, host and command",
    "cli/group.py": "a sentence and a time, as torchrun reads them",
    "engines/flower/carried.py": "names and shapes",
    "engines/flower/strategy_state.py": "names and types",
    "engines/flower/envelope.py": "Flower's metrics, which have NaN",
    "engines/flower/layout.py": "names and shapes",
    "links/ledger.py": "byte counts",
    "links/store.py": "numbers of clients",
    "wire/identity.py": "names",
    "learn/optimizer_state.py": "an optimizer's numbers, where NaN must come back as NaN",
    "rng.py": "keys",
}


def test_json_is_written_by_one_function_where_figures_may_be_in_it():
    source = Path(fb.__file__).parent
    found = {str(p.relative_to(source)) for p in source.rglob("*.py") if "json.dump" in p.read_text()}
    assert found == set(WHOLE)


# --- Data that do not fit

FIT = [(torch.randn(12, 6, generator=torch.Generator().manual_seed(i)), torch.arange(12) % 3) for i in range(6)]
UNFIT = {
    "x of another type": (
        lambda x, y: (x.double(), y),
        r"its x is \(12, 6\) float64, that of \w+ [01] \(12, 6\) float32",
    ),
    "x of another shape": (lambda x, y: (x[:, :5], y), r"its x is \(12, 5\) float32.*pad sequences"),
    "x of another rank": (lambda x, y: (x[:, None], y), r"its x is \(12, 1, 6\) float32"),
    "y of another type": (lambda x, y: (x, y.float()), r"its y is \(12,\) float32, that of \w+ [01] \(12,\) int64"),
    "y of another shape": (lambda x, y: (x, y[:, None]), r"its y is \(12, 1\) int64"),
    "no example": (lambda x, y: (x[:0], y[:0]), "it has no example"),
    "no example and no shape": (lambda x, y: (torch.empty(0), torch.empty(0)), "it has no example"),
    "NumPy without example": (lambda x, y: (x[:0].numpy(), y[:0].numpy()), "it has no example"),
    "fewer targets": (lambda x, y: (x, y[:3]), "it has 12 rows of x and 3 of y"),
    "labels out of range": (lambda x, y: (x, y + 9), r"Target \d+ is out of bounds"),
    "negative labels": (lambda x, y: (x, y - 7), r"Target -\d is out of bounds"),
    "NaN": (lambda x, y: (x * math.nan, y), "12 of its 12 examples have inputs that are not finite"),
}


@pytest.mark.parametrize("at", [0, LIAR])
@pytest.mark.parametrize("name", UNFIT)
def test_one_client_whose_data_do_not_fit_loses_its_turns_and_the_others_train(name, at):
    change, said = UNFIT[name]
    data = list(FIT)
    data[at] = change(*data[at])
    linear = nn.Linear(6, 3)
    for result in (
        fb.federate(linear, data, "topk@fraction=0.5", 2, test=FIT[1]),
        fb.gossip(linear, data, topology.ring(6), "choco", 2, test=FIT[1]),
    ):
        assert [r.skipped for r in result.reports] == [1, 1]
        (note,) = [note for note in result.notes if re.match(rf"round 1: (client|node) {at} ", note)]
        assert re.search(said, note), note
        assert torch.isfinite(weights(linear)).all()
        assert result.notes[-1].startswith(("2 turns of clients were skipped", "nodes took no step 2 times"))


def test_clients_that_do_not_fit_are_each_named_in_the_round_of_their_turn():
    unfit = {1, 4, 6}
    data = [(x.double(), y) if i in unfit else (x, y) for i, (x, y) in enumerate(FIT + FIT[:2])]
    result = play("federate", data, 8, per_round=3, seed=1)
    said = [note for note in result.notes if "its x is" in note]
    named = [n for note in said for n in (*re.findall(r"client (\d+) was", note), *_likewise(note))]
    assert sorted(map(int, named)) == sorted(unfit), "each of them once"
    assert len(said) > 1


def _likewise(note):
    return [n for more in re.findall("likewise (.*)", note) for n in more.split(", ")]


@pytest.mark.parametrize("engine", ["federate", "gossip"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0]), "0: it has no example; so it is with 4 of 6 (client|node)s"),
        (lambda x, y: (x, y[:5]), "0: it has 12 rows of x and 5 of y"),
        (lambda x, y: (x[:, :4], y), "the model fails on x"),
    ],
)
def test_where_most_do_not_fit_the_call_is_refused(engine, change, said):
    data = [change(*one) if i < 4 else one for i, one in enumerate(FIT)]
    with pytest.raises(fb.LocalError, match=said):
        play(engine, data)


def test_where_two_kinds_of_data_are_equally_common_the_call_is_refused():
    data = [(x.double(), y) if i < 3 else (x, y) for i, (x, y) in enumerate(FIT)]
    with pytest.raises(fb.LocalError, match=r"client 3: its x is .* float32, that of client 0 .* float64; no kind"):
        play("federate", data)


def test_a_task_with_parts_of_no_row_skips_their_turns():
    x, y = torch.cat([x for x, _ in FIT]), torch.cat([y for _, y in FIT])
    given = Task(nn.Linear(6, 3), x, y, [range(20), [], np.arange(30, 50), []])
    assert dict(given.unfit) == {1: "it has no example", 3: "it has no example"}
    result = Federation(given, fb.methods.fedprox(), Schedule(2, processes=1), fb.Key(0)).run()
    assert [(r.clients, r.skipped) for r in result.reports] == [(2, 2)] * 2
    assert result.notes[0] == "round 1: client 1 was skipped: it has no example; likewise 3"


@pytest.mark.parametrize(
    "method", ["masked+dense", "dp+dense@clip=1,noise=0.1", "scaffold", "intrinsic@dim=5", "fetchsgd"]
)
def test_under_every_kind_of_method_an_unfit_client_loses_its_turns_alone(method):
    data = list(FIT)
    data[LIAR] = data[LIAR][0].double(), data[LIAR][1]
    result = fb.federate(nn.Linear(6, 3), data, method, 2)
    assert [(r.clients, r.skipped) for r in result.reports] == [(5, 1)] * 2


def play(engine, data, rounds=2, **options):
    torch.manual_seed(0)
    if engine == "federate":
        return fb.federate(nn.Linear(6, 3), data, "dense", rounds, **options)
    return fb.gossip(nn.Linear(6, 3), data, topology.ring(len(data)), "dsgd", rounds, **options)


# --- Targets that do not count


@pytest.mark.parametrize(("loss", "void"), [(None, -100), (nn.CrossEntropyLoss(ignore_index=255), 255), (masked, -100)])
@pytest.mark.parametrize("engine", ["federate", "gossip"])
def test_a_client_without_a_target_that_counts_is_named_as_that(engine, loss, void):
    data = list(FIT)
    data[LIAR] = data[LIAR][0], torch.full((12,), void)
    result = play(engine, data, loss=loss)
    assert [note for note in result.notes if "round" in note] == [
        f"round 1: {'client' if engine == 'federate' else 'node'} {LIAR}: none of its targets counts: the loss leaves "
        "all of them out"
    ]
    assert [r.skipped for r in result.reports] == [0, 0]


@pytest.mark.parametrize("engine", ["federate", "gossip"])
def test_a_test_set_without_a_target_that_counts_is_named_as_that(engine):
    result = play(engine, FIT, test=(FIT[0][0], torch.full((12,), -100)))
    assert [(r.loss, r.accuracy, r.diverged) for r in result.reports] == [(None, None, False)] * 2
    (note,) = [note for note in result.notes if "no target counts, so that there is no loss" in note]
    assert note.startswith("round 1:")


# --- Evaluations that fail


def failing_in_evaluation(at):
    """A loss that raises in its evaluation of this number."""
    calls = []

    def loss(output, y):
        if not torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == at:
                raise RuntimeError("no evaluation\ntoday")
        return cross_entropy(output, y)

    return loss


def test_an_evaluation_that_raises_costs_the_rounds_figures_alone():
    loss = failing_in_evaluation(3)  # the first is that of the check before round 1
    result = play("federate", FIT, 4, test=FIT[0], loss=loss)
    assert [r.clients for r in result.reports] == [6] * 4
    assert [r.loss is None and r.accuracy is None and not r.diverged for r in result.reports] == [
        False,
        True,
        False,
        False,
    ]
    (note,) = result.notes
    assert note.startswith("round 2: the test set: evaluation fails on rows 0..11") and "no evaluation today" in note
    undisturbed = play("federate", FIT, 4, test=FIT[0])
    assert torch.equal(weights(result.model), weights(undisturbed.model))


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyError("x"), AssertionError("x"), fb.LocalError("x"), MemoryError()]
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_later_piece_of_the_test_set_that_fails_ends_no_run(error, processes):
    class Model(nn.Linear):
        def forward(self, x):
            if bool((x == MARK).any()):
                raise error
            return super().forward(x)

    x, y = torch.randn(700, 6), torch.arange(700) % 3
    x[650] = MARK
    found = fb.federate(Model(6, 3), FIT, "dense", 2, test=(x, y), processes=processes)
    assert [(r.loss, r.accuracy, r.clients) for r in found.reports] == [(None, None, 6)] * 2
    assert len([note for note in found.notes if "the test set" in note]) == 1
    nodes = fb.gossip(Model(6, 3), FIT, topology.ring(6), "dsgd", 2, test=(x, y), processes=processes)
    assert [(r.loss, r.accuracy, r.skipped) for r in nodes.reports] == [(None, None, 0)] * 2
    (note,) = [note for note in nodes.notes if "on the test set" in note]
    assert note.endswith("; likewise 1, 2, 3, 4, 5")


def test_over_a_network_an_evaluation_that_fails_ends_no_run(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    method, ring, schedule = gossip_method("dsgd"), topology.ring(2), Schedule(3, processes=1)

    def act(process):
        given = Task.of(nn.Linear(6, 3), FIT[:2], FIT[0], LocalSGD(lr=0.1), failing_in_evaluation(3))
        with World(process) as world:
            result = DistributedRun(given, method, ring, schedule, fb.Key(0), None, world).run()
        return [[r.accuracy for r in result.reports], result.notes]

    outcomes = run_all(act, processes(2))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    accuracies, notes = outcomes[0].value
    assert len(accuracies) == 3 and None in accuracies and accuracies[2] is not None
    assert any("on the test set: evaluation fails" in note and "no evaluation today" in note for note in notes)
