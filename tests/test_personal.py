"""Laws of models of which a part stays with its client: nothing of it travels, and each client's lasts."""

import math
import statistics
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from digits_task import KEY, LOCAL, digits, evidence, federation, filled, holdout, kept, model_bytes, task
from fewbits.codecs import ErrorFeedback, Raw, TopK, chain, flat
from fewbits.engines.simulation.pool import Pool
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import FewbitsError, LocalError, WireError
from fewbits.federated import Client, Server
from fewbits.federated.local_round import LocalRound
from fewbits.learn import FlatModel, Method, shared_values
from fewbits.learn.evaluation import Scores
from fewbits.links import Receiver, Subscriber
from fewbits.links.client_state import dump_client_state, load_client_state
from fewbits.links.ledger import read
from fewbits.methods import build, fedpara, fedper, local, pfedpara
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES

PERSONAL = ["pfedpara", "fedper", "local"]
CLIENTS = 6


def mlp() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)))


def normed() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))


def own_task(**changes):
    return task(CLIENTS, **({"model": mlp} | changes))


def prepared(method, model=mlp) -> FlatModel:
    """The initial model of a run of `federation`."""
    module = model()
    method.prepare(module, KEY.fold("factor"))
    return FlatModel(module)


def payload(sealed: bytes) -> bytes:
    """A kept row without its header and checksum: float32 words."""
    return sealed[HEADER_BYTES:]


def sampled(folder: Path) -> list[list[int]]:
    """The clients of each round."""
    found: dict[int, list[int]] = {}
    for entry in read(folder / "ledger.jsonl"):
        if entry.direction == "up":
            found.setdefault(entry.round, []).append(entry.client)
    return [found[number] for number in sorted(found)]


# --- what travels


def windows(data: bytes) -> np.ndarray:
    """Every 8 bytes that follow one another, as numbers."""
    return np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), 8).copy().view("<u8").ravel()


@pytest.mark.parametrize("name", PERSONAL)
def test_nothing_private_is_in_any_message_either_way(name, tmp_path):
    """Names, lengths, decoded tensors, and every 8 bytes of every private tensor of every client at every time."""
    method = build(name)
    run = federation(method, tmp_path, task=own_task(), per_round=4, processes=2)
    private, size = run.server.flat.private_names, len(run.server.flat.shared)
    names = {tensor for tensor, _ in run.server.exchange.update}
    assert private and not names & private
    own = run.server.flat.private[0]
    own.add_(torch.randn(len(own), generator=KEY.generator()) / 8)  # pFedPara's begin with zeros, which are no secret
    assert names == {tensor for tensor, _ in run.task.model.named_parameters()} - private
    secrets, messages, counts = [run.server.flat.private[0].numpy().tobytes()], [], {"up": 0, "down": 0}
    codecs, ends = (run.server.exchange.up, run.server.broadcast.codec), {}

    def tap(round, client, direction, message):
        if client not in ends:
            ends[client] = (
                Receiver(codecs[0], run.server.exchange.update),
                Subscriber(codecs[1], run.server.exchange.update),
            )
        receiver, follower = ends[client]
        messages.append(message)
        counts[direction] += 1
        if direction == "up":
            assert len(message) == HEADER_BYTES + 4 * size
            decoded = receiver.receive(message, KEY.fold("round", round, "common"))
        else:
            assert (
                len(message) <= HEADER_BYTES + 4 * size + 8
            )  # a bundle says how many frames it has, and their lengths
            decoded = follower.receive(message)
        assert set(decoded) == names

    run.tap = tap
    run.run(lambda report: secrets.extend(payload(row) for row in kept(tmp_path).values()))
    assert counts == {"up": 16, "down": 16}
    assert len(secrets) > 12 and len(set(secrets)) > 8, "private values, and they change"
    found = np.intersect1d(windows(b"".join(messages)), np.concatenate([windows(secret) for secret in secrets]))
    assert len(found) == 0


def test_the_search_for_private_bytes_finds_them_when_they_are_there():
    words = torch.randn(50, generator=KEY.generator()).numpy().tobytes()
    message = b"\x01\x02\x03" + bytes(100) + words[101:113] + bytes(5)
    assert len(np.intersect1d(windows(message), windows(words))) == 5
    assert len(np.intersect1d(windows(message), windows(words[:100]))) == 0


def test_of_local_only_headers_travel():
    run = federation(local(), task=own_task(), processes=2)
    sizes = {"up": set(), "down": set()}
    run.tap = lambda round, client, way, message: sizes[way].add(len(message))
    last = run.run().reports[-1]
    assert sizes["up"] == {HEADER_BYTES} and max(sizes["down"]) <= HEADER_BYTES + 8
    assert (last.up_frame_bytes, last.up_payload_bytes, last.down_payload_bytes) == (16 * 4 * CLIENTS, 0, 0)


def test_a_dense_model_of_which_a_layer_stays_pays_for_the_rest(tmp_path):
    run = federation(build("fedper"), tmp_path, task=own_task())
    run.run()
    assert {e.payload_bytes for e in read(tmp_path / "ledger.jsonl")} == {4 * (64 * 24 + 24)}


# --- what a run gives, by hand


def by_hand(method, rounds: list[list[int]], clients: int = CLIENTS, model=mlp):
    """(what travels, what each client keeps) after these rounds: FedAvg on what travels, by torch.optim.SGD."""
    own, net = task(clients, model=model), model()
    method.prepare(net, KEY.fold("factor"))
    stays = FlatModel(net).private_names
    public = {name: p.detach().clone() for name, p in net.named_parameters()}
    mine = [{name: public[name].clone() for name in stays} for _ in range(clients)]
    for number, chosen in enumerate(rounds, 1):
        ends = {}
        for client in chosen:
            start = public | mine[client]
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p.copy_(start[name])
            optimizer = torch.optim.SGD(net.parameters(), lr=LOCAL.lr)
            for batch in LOCAL.batches(own.parts[client], KEY.fold("round", number, "client", client)):
                optimizer.zero_grad()
                cross_entropy(net(own.x[batch]), own.y[batch]).backward()
                optimizer.step()
            ends[client] = {name: p.detach().clone() for name, p in net.named_parameters()}
            mine[client] = {name: ends[client][name] for name in stays}
        total = sum(len(own.parts[c]) for c in chosen)
        for name in public.keys() - stays:
            public[name] = sum(ends[c][name] * (len(own.parts[c]) / total) for c in chosen)
    return {name: x for name, x in public.items() if name not in stays}, mine


def assert_as_by_hand(run, expected):
    """The server's model and every kept row; a client that never took part has none."""
    public, mine = expected
    flat_model = run.server.flat
    named = flat_model.named()
    for name, x in public.items():
        torch.testing.assert_close(named[name], x, rtol=0, atol=1e-5, msg=name)
    order = [name for name in flat_model.parameter_names if name in flat_model.private_names]
    start = flat_model.private[0]  # the server never trains it
    rows = kept(run.folder)
    for client, own in enumerate(mine):
        vector = torch.cat([own[name].reshape(-1) for name in order])
        if client not in rows:
            assert torch.equal(vector, start)
        else:
            found = torch.from_numpy(np.frombuffer(payload(rows[client]), "<f4").copy())
            torch.testing.assert_close(found, vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PERSONAL)
def test_a_personal_method_is_fedavg_on_what_travels_and_plain_training_on_what_stays(name, tmp_path):
    """With sampling: late comers begin at the common start, those left out keep theirs."""
    run = federation(build(name), tmp_path, task=own_task(), per_round=2, rounds=5)
    run.run()
    rounds = sampled(tmp_path)
    assert {c for r in rounds[2:] for c in r} - {c for r in rounds[:2] for c in r}, "somebody came late"
    assert_as_by_hand(run, by_hand(build(name), rounds))


def test_local_is_every_client_alone():
    run = federation(local(), task=own_task())
    found = {}
    finish = Worker.train

    def train(self, round, client, update):
        trained = finish(self, round, client, update)
        found[round, client] = self.model.params.clone()
        return trained

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "train", train)
        run.run()
    own = own_task()
    for client, rows in enumerate(own.parts):
        alone = FlatModel(mlp())
        for number in range(1, 5):
            LOCAL.train(alone, own.x, own.y, rows, KEY.fold("round", number, "client", client))
            assert torch.equal(found[number, client], alone.params)
    assert model_bytes(run.task.model) == model_bytes(mlp()), "the server learns nothing"


def test_fedper_of_every_layer_is_local(tmp_path):
    found = []
    for name, method in (("fedper", fedper(private="*")), ("local", local())):
        run = federation(method, tmp_path / name, task=own_task(holdout=holdout()), per_round=4)
        run.run()
        found.append(evidence(run))
    assert found[0] == found[1] and len(found[0][3]) > 3


# --- what a client keeps


@pytest.mark.parametrize("name", PERSONAL)
@pytest.mark.parametrize("processes", [1, 2])
def test_private_parts_differ_between_clients_and_stay_bit_for_bit_while_a_client_is_away(name, processes, tmp_path):
    run = federation(build(name), tmp_path, task=own_task(), per_round=3, rounds=8, processes=processes)
    states = []
    run.run(lambda report: states.append(kept(tmp_path)))
    before: dict[int, bytes] = {}
    for chosen, now in zip(sampled(tmp_path), states, strict=True):
        assert now.keys() == before.keys() | set(chosen)
        assert {c for c in now if now[c] != before.get(c)} == set(chosen)
        before = now
    start = prepared(build(name)).private[0].numpy().tobytes()
    assert len(states[-1]) > 3 and all(payload(row) != start for row in states[-1].values())
    assert all(payload(a) != payload(b) for a, b in combinations(states[-1].values(), 2))


def test_a_client_that_joins_late_starts_from_the_common_initial_factors(monkeypatch, tmp_path):
    starts: dict[int, tuple[int, bytes, bytes]] = {}
    train = Worker.train

    def watched(self, round, client, update):
        self._load(client)
        starts.setdefault(client, (round, self.model.private[0].numpy().tobytes(), self.model.shared.numpy().tobytes()))
        return train(self, round, client, update)

    monkeypatch.setattr(Worker, "train", watched)
    federation(pfedpara(), tmp_path, task=own_task(), per_round=2, rounds=1).run()
    federation(pfedpara(), tmp_path, task=own_task(), per_round=2, rounds=12).run()  # after a restart, too
    first = prepared(pfedpara())
    assert len({round for round, _, _ in starts.values()}) > 2
    assert {own for _, own, _ in starts.values()} == {first.private[0].numpy().tobytes()}
    assert len({shared for _, _, shared in starts.values()}) > 1, "what travels has moved on"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", PERSONAL)
def test_a_rejected_frame_takes_back_what_its_client_keeps(name, processes, tmp_path, monkeypatch):
    encode = Worker.encode

    def damaged(self, round, trained):
        reply, pieces = encode(self, round, trained)
        frame = b"".join(pieces)
        return reply, [frame[:-1] + bytes([frame[-1] ^ 1]) if (round, trained.client) in ((1, 2), (3, 1)) else frame]

    monkeypatch.setattr(Worker, "encode", damaged)
    run = federation(build(name), tmp_path, task=own_task(), processes=processes)
    states = []
    result = run.run(lambda report: states.append(kept(tmp_path)))
    assert [r.rejected for r in result.reports] == [1, 0, 1, 0]
    assert 2 not in states[0] and states[2][1] == states[1][1] and states[3][1] != states[1][1]
    everybody = list(range(CLIENTS))
    assert_as_by_hand(run, by_hand(build(name), [[0, 1, 3, 4, 5], everybody, [0, 2, 3, 4, 5], everybody]))


def test_a_client_whose_private_part_is_not_finite_is_skipped_and_keeps_what_it_had(tmp_path):
    own = own_task()
    x = own.x.clone()
    x[own.parts[2][0]] = float("inf")
    run = federation(local(), tmp_path, task=replace(own, x=x))
    result = run.run()
    assert [r.skipped for r in result.reports] == [1] * 4 and 2 not in kept(tmp_path)
    assert "client 2 was skipped" in result.notes[0] and "client state has" in result.notes[0]


@pytest.mark.parametrize("name", PERSONAL)
def test_a_run_that_was_stopped_ends_with_the_same_private_parts(name, tmp_path):
    """Killed runs: test_resume."""
    found = []
    for stops in ((), (2, 3)):
        folder = tmp_path / str(stops)
        for rounds in (*stops, 6):
            run = federation(
                build(name),
                folder,
                task=own_task(holdout=holdout()),
                per_round=3,
                rounds=rounds,
                processes=1 + rounds % 2,
            )
            run.run()
        found.append(evidence(run))
    assert found[0] == found[1] and len(found[0][3]) > 3


@pytest.mark.parametrize("lost", [False, True])
def test_a_client_with_nothing_but_bytes_keeps_its_part_and_takes_back_what_was_lost(lost):
    start = prepared(pfedpara())
    server = Server(prepared(pfedpara()).module, Method.of(Raw(), Raw()), Key(0))
    client = Client(prepared(pfedpara()).module, Method.of(Raw(), Raw()), Key(1))
    own = client._core.model

    def turn() -> tuple[Tensor, bytes]:
        """What the client had kept; its frame, after its whole model grew by 1."""
        client.receive(server.bundle(0))
        assert torch.equal(own.shared, server.flat.shared)
        before = own.private[0].clone()
        own.params.add_(1.0)
        return before, client.reply()

    before, frame = turn()
    assert torch.equal(before, start.private[0])
    if not lost:
        assert server.accept(0, frame, 1.0) is not None
    server.step()
    before, frame = turn()
    assert torch.equal(before, start.private[0] + (0.0 if lost else 1.0))
    assert server.accept(0, frame, 1.0) is not None
    server.step()
    torch.testing.assert_close(server.flat.shared, start.shared + (1.0 if lost else 2.0))
    assert torch.equal(server.flat.private[0], start.private[0])


# --- buffers


@pytest.mark.parametrize("method", [local(), fedper(private="1"), fedper(private="1,3")], ids=["local", "norm", "two"])
def test_running_statistics_of_a_private_layer_stay_with_their_client(method, tmp_path):
    run = federation(method, tmp_path, task=own_task(model=normed), per_round=4)
    names = {name for name, _ in run.server.exchange.update}
    assert not any("running" in name for name in names)
    run.run()
    rows = kept(tmp_path)
    statistics = [np.frombuffer(payload(row), "<f4")[-24:] for row in rows.values()]
    assert all(not np.array_equal(a, b) for a, b in combinations(statistics, 2))


def test_running_statistics_of_a_layer_that_travels_do_too():
    run = federation(fedper(), task=own_task(model=normed))
    names = {name for name, _ in run.server.exchange.update}
    assert {"buffer:1.running_mean", "buffer:1.running_var"} <= names
    run.run()
    assert not torch.equal(run.task.model[1].running_mean, torch.zeros(12))


# --- judging


def test_own_accuracy_is_each_clients_model_on_its_own_held_out_rows(tmp_path):
    own = own_task(holdout=holdout())
    run = federation(pfedpara(), tmp_path, task=own, per_round=2, rounds=3, processes=2)
    last = run.run().reports[-1]
    rows, model = kept(tmp_path), FlatModel(run.task.model)
    x, y = digits()
    start, found = model.private[0].clone(), []
    assert 0 < len(rows) < CLIENTS, "those who never took part are judged, too"
    for client, numbers in enumerate(holdout()):
        mine = torch.from_numpy(np.frombuffer(payload(rows[client]), "<f4").copy()) if client in rows else start
        model.private[0].copy_(mine)
        with torch.no_grad():
            found.append(float((model.module.eval()(x[numbers]).argmax(1) == y[numbers]).float().mean()))
    assert last.personal_accuracy == pytest.approx(np.mean(found), abs=1e-6)
    assert last.personal_spread == pytest.approx(np.std(found), abs=1e-6)
    assert last.personal_worst == pytest.approx(min(found), abs=1e-6)
    assert last.personal_least == pytest.approx(min(found), abs=1e-6)
    assert last.personal_median == pytest.approx(statistics.median(found), abs=1e-6)
    assert last.accuracy == last.personal_accuracy


def test_the_worst_tenth_is_the_mean_of_the_tenth_of_clients_that_do_worst(monkeypatch):
    own = task(20, size=2, holdout=holdout(9) + [np.arange(1700, 1705)] * 11)
    monkeypatch.setattr(Pool, "evaluate_personal", lambda self, bundle: [Scores(7 * i % 20, 20) for i in range(20)])
    last = federation(local(), task=own, rounds=1).run().reports[-1]
    assert last.personal_worst == pytest.approx((0 + 1 / 20) / 2) and last.personal_accuracy == pytest.approx(9.5 / 20)
    assert (last.personal_least, last.personal_median) == (0, pytest.approx(9.5 / 20))
    assert (last.personal_tenth, last.personal_ninetieth) == (pytest.approx(1.9 / 20), pytest.approx(17.1 / 20))


def test_one_model_for_all_is_judged_on_held_out_rows_and_on_the_test_set():
    last = federation(fedpara(), task=own_task(holdout=holdout())).run().reports[-1]
    model = federation(fedpara(), task=own_task()).run()
    assert last.accuracy == model.reports[-1].accuracy is not None
    assert last.personal_accuracy is not None and model.reports[-1].personal_accuracy is None


def test_a_personal_method_without_held_out_rows_has_no_accuracy():
    last = federation(local(), task=own_task()).run().reports[-1]
    assert last.accuracy is None and last.personal_accuracy is None and last.loss is not None


# --- combinations


@pytest.mark.parametrize("over", ["topk", "lbgm+topk", "fedadam", "scaffold", "feddyn", "predict"])
def test_private_parts_go_with_any_method(over, tmp_path):
    found = []
    for processes in (1, 2):
        run = federation(
            build(f"pfedpara+{over}"), tmp_path / str(processes), task=own_task(), per_round=4, processes=processes
        )
        result = run.run()
        assert all(r.rejected == r.skipped == 0 for r in result.reports) and math.isfinite(result.reports[-1].loss)
        found.append(evidence(run))
    assert found[0] == found[1] and len(found[0][3]) > 3


@pytest.mark.parametrize("over", ["dense", "topk", "lbgm", "scaffold", "feddyn", "fedprox", "fedyogi"])
def test_everything_may_stay_under_any_method(over, tmp_path):
    run = federation(build(f"fedper+{over}", {"private": "*"}), tmp_path, task=own_task())
    result = run.run()
    assert all(r.rejected == r.skipped == 0 for r in result.reports)
    alone = federation(local(), tmp_path / "local", task=own_task())
    alone.run()
    assert [payload(row) for row in kept(tmp_path).values()] == [payload(r) for r in kept(tmp_path / "local").values()]


def test_the_last_layer_of_a_factored_model_is_a_whole_layer():
    def deep():
        return filled(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 30), nn.ReLU(), nn.Linear(30, 30)))

    method = replace(fedpara(), private=fedper().private)
    stays = prepared(method, deep).private_names
    assert stays == {"4.bias", *(f"4.parametrizations.weight.0.{x}" for x in ("X1", "X2", "Y1", "Y2"))}


def test_what_a_factorisation_keeps_private_makes_a_method_personal():
    method = fedpara()
    assert not method.personal and pfedpara().personal and local().personal and fedper().personal
    assert replace(method, factor=replace(method.factor, private=("*.bias",))).personal


def test_a_model_is_prepared_once_and_all_runs_of_one_key_start_alike():
    model = mlp()
    pfedpara().prepare(model, KEY)
    before = model_bytes(model)
    pfedpara().prepare(model, KEY.fold("other"))
    assert model_bytes(model) == before
    starts = [federation(pfedpara(), task=own_task()).task.model for _ in range(2)]
    assert model_bytes(starts[0]) == model_bytes(starts[1]) != before


# --- mistakes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (holdout(5), "holdout needs one or more rows for each of 6 clients; got 5 clients"),
        ([*holdout(5), np.arange(0)], r"got 6 clients, without any: \[5\]"),
        ([*holdout(5), np.arange(1796, 1798)], "row 1797, but there are 1797 rows"),
        ([*holdout(5), np.array([-1])], "row -1"),
        ([*holdout(5), [0.5]], "holdout of client 5 must be a list of row numbers"),
        ([*holdout(5), [True]], "holdout of client 5 must be a list of row numbers"),
        ([*holdout(5), [[3]]], "holdout of client 5 must be a list of row numbers"),
    ],
    ids=["few", "none", "beyond", "negative", "fraction", "bool", "nested"],
)
def test_held_out_rows_that_do_not_fit_are_refused(rows, said):
    with pytest.raises(LocalError, match=said):
        own_task(holdout=rows)


def test_held_out_rows_may_be_lists_or_small_whole_numbers():
    small = own_task(holdout=[rows.astype(np.uint16).tolist() for rows in holdout()])
    short = own_task(holdout=[rows.astype(np.int16) for rows in holdout()])
    found = [federation(local(), task=each, rounds=1).run().reports[-1].personal_accuracy for each in (small, short)]
    assert found[0] == found[1] is not None


def test_a_pattern_that_matches_nothing_names_it_and_what_there_is():
    with pytest.raises(LocalError, match=r"private: pattern 'head' matches nothing; there are 0\.weight, 0\.bias"):
        federation(fedper(private="head"), task=own_task())


def test_a_kept_row_is_checked():
    x = torch.arange(5.0)
    data = dump_client_state(x, "a")
    assert torch.equal(load_client_state(data, 5, "a"), x)
    for numel, layout in ((5, "b"), (4, "a"), (6, "a")):
        with pytest.raises(WireError, match="the stored client state is of another model or method: 20 bytes"):
            load_client_state(data, numel, layout)
    for damaged in (data[:-1], data + b"\0", b"", data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(WireError):
            load_client_state(damaged, 5, "a")


def test_a_kept_row_is_a_copy_whatever_the_strides():
    x = torch.arange(6.0).reshape(2, 3).T.reshape(-1)
    found = load_client_state(dump_client_state(x[::2], "a"), 3, "a")
    assert torch.equal(found, x[::2])
    found.add_(1)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_kept_row_of_another_method_ends_the_run_with_a_sentence(processes, tmp_path, monkeypatch):
    federation(pfedpara(), tmp_path, task=own_task(), rounds=2, processes=processes).run()
    other = property(lambda self: "the layout of another", lambda self, layout: None)
    monkeypatch.setattr(LocalRound, "_layout", other, raising=False)
    with pytest.raises(FewbitsError, match="the stored client state is of another model or method"):
        federation(pfedpara(), tmp_path, task=own_task(), rounds=3, processes=processes).run()


def test_a_client_asked_for_its_correction_before_the_first_bundle_says_what_is_missing():
    with pytest.raises(LocalError, match="receive a bundle"):
        _ = Client(mlp(), Method.of(Raw(), Raw()), Key(0)).correction


def test_a_lossy_uplink_carries_the_shared_part_alone():
    method = replace(pfedpara(), up=flat(ErrorFeedback(chain(TopK(0.1)))))
    run = federation(method, task=own_task())
    run.run()
    assert not run.server.rejected
    assert shared_values.spec(run.server.flat).numel == len(run.server.flat.shared) < len(run.server.flat.params)


def test_a_clients_own_model_can_be_had_after_the_run(tmp_path):
    run = federation(pfedpara(gamma=0.3), tmp_path, task=own_task(holdout=holdout()), rounds=3)
    result = run.run()
    rows, x, y = run.task.holdout, run.task.x, run.task.y
    own = [run.client_model(client) for client in range(len(rows))]
    found = [float((m.eval()(x[r]).argmax(1) == y[r]).float().mean()) for m, r in zip(own, rows, strict=True)]
    assert np.mean(found) == pytest.approx(result.reports[-1].personal_accuracy)
    assert not torch.equal(
        torch.cat([p.flatten() for p in own[0].parameters()]), torch.cat([p.flatten() for p in own[1].parameters()])
    )
    for client, folder in ((99, tmp_path), (0, None)):
        with pytest.raises(LocalError, match="client_model: needs a run with a folder"):
            federation(pfedpara(gamma=0.3), folder, task=own_task(holdout=holdout()), rounds=3).client_model(client)
