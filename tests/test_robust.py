"""Liars: each robust rule is what NumPy says, long updates are left out and named, and honest ones never are."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.codecs import Partial
from fewbits.engines.common import checkpoint
from fewbits.federated import round_sum
from fewbits.learn.aggregation import (
    CoordinateMedian,
    GeometricMedian,
    Krum,
    MultiKrum,
    NormBound,
    TrimmedMean,
    Updates,
)
from fewbits.learn.aggregation import updates as updates_module
from fewbits.learn.aggregation.memory import memory_note
from fewbits.learn.aggregation.updates import Row
from fewbits.methods import METHODS, named
from fewbits.testing.ends import restamp
from fewbits.wire import Frame
from test_methods import ROBUST

DENSE, SPARSE = 0.0, 0.6  # share of entries that a client does not send


def matrix(n: int, size: int, unsent: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(values, which were sent); a liar in the last row."""
    rng = np.random.default_rng(seed)
    values, sent = rng.normal(size=(n, size)).astype(np.float32), rng.random((n, size)) >= unsent
    values[-1] *= 100
    return np.where(sent, values, 0).astype(np.float32), sent


def as_updates(values: np.ndarray, sent: np.ndarray) -> Updates:
    if sent.all():
        return Updates([Row(torch.from_numpy(row.copy())) for row in values], values.shape[1])
    where = [torch.from_numpy(np.flatnonzero(row)) for row in sent]
    rows = [Row(torch.from_numpy(x)[at], at) for x, at in zip(values, where, strict=True)]
    return Updates(rows, values.shape[1])


def shortened(values, sent):
    """As the coordinate rules take sparse rows: none is longer than the median row."""
    if sent.all():
        return values
    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    return values * np.minimum(1, np.sort(norms)[len(norms) // 2] / np.maximum(norms, 1e-30))[:, None]


def median_of(values, sent):
    return np.array([by_rank(x[s], len(x), lambda r: np.median(r)) for x, s in zip(values.T, sent.T, strict=True)])


def trimmed_of(values, sent, trim):
    def middle(ranked):
        b = min(int(np.ceil(trim * len(ranked) - 1e-6)), (len(ranked) - 1) // 2)
        return ranked[b : len(ranked) - b].mean()

    return np.array([by_rank(x[s], len(x), middle) for x, s in zip(values.T, sent.T, strict=True)])


def by_rank(found, n, rule):
    return rule(np.sort(found.astype(np.float64))) * len(found) / n if len(found) else 0.0


def krum_order(values, liars):
    n = len(values)
    f = max(0, min(int(np.ceil(round(liars * n, 6))), (n - 3) // 2))
    scores = []
    for i in range(n):
        away = sorted(float(((values[i].astype(float) - values[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(away[: min(max(n - f - 2, 1), n - 1)]))
    return list(np.argsort(scores, kind="stable")), f


def geometric_of(values, steps):
    z = values.astype(np.float64).mean(0)
    for _ in range(steps):
        b = 1 / np.linalg.norm(values - z, axis=1)
        z = (b[:, None] * values).sum(0) / b.sum()
    return z


@pytest.mark.parametrize("unsent", [DENSE, SPARSE])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_each_rule_is_what_a_loop_in_numpy_says(n, unsent, monkeypatch):
    monkeypatch.setattr(updates_module, "NUMBERS", 8 * n)  # several blocks
    values, sent = matrix(n, 29, unsent, n)
    updates = as_updates(values, sent)
    order, f = krum_order(values, 0.2)
    expected = [
        (CoordinateMedian(), median_of(shortened(values, sent), sent)),
        (TrimmedMean(0.2), trimmed_of(shortened(values, sent), sent, 0.2)),
        (TrimmedMean(0.0), shortened(values, sent).mean(0)),
        (Krum(0.2), values[order[0]]),
        (MultiKrum(0.2), values[order[: n - f]].mean(0)),
        (MultiKrum(0.2, chosen=2), values[order[:2]].mean(0)),
        (GeometricMedian(8), geometric_of(values, 8) if n > 2 else values.mean(0)),
    ]
    for rule, oracle in expected:
        (found,) = rule([updates])
        np.testing.assert_allclose(found.numpy(), oracle, rtol=2e-5, atol=2e-5, err_msg=repr(rule))


def test_a_geometric_median_has_no_smaller_sum_of_distances_beside_it():
    values, sent = matrix(9, 5, DENSE)
    (found,) = GeometricMedian(200)([as_updates(values, sent)])

    def away(z):
        return np.linalg.norm(values - z, axis=1).sum()

    steps = np.random.default_rng(0).normal(size=(50, 5)) * 1e-2
    assert all(away(found.numpy()) <= away(found.numpy() + step) + 1e-6 for step in steps)


@pytest.mark.parametrize("rule", [Krum(), MultiKrum(), GeometricMedian()])
def test_groups_of_one_kind_are_chosen_together(rule):
    values, sent = matrix(6, 12, DENSE)
    (whole,) = rule([as_updates(values, sent)])
    parts = rule([as_updates(values[:, :5], sent[:, :5]), as_updates(values[:, 5:], sent[:, 5:])])
    torch.testing.assert_close(torch.cat(parts), whole)


# A round by hand, with real frames


def build(seed: int = 0, norm: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), *([nn.BatchNorm1d(5)] if norm else []), nn.Linear(5, 3))


def wide() -> nn.Module:
    """Wide enough for factors."""
    return nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 3))


class Fleet:
    """Senders that send what a test gives them."""

    def __init__(self, method, n=8, norm=False, model=None, **options):
        self.server = fb.Server(model or build(norm=norm), method, fb.Key(0), total_weight=10.0 * n, **options)
        self.ends = [self.server.exchange.sender(fb.Key(100 + i)) for i in range(n)]

    def update(self, size=1.0, seed=0):
        """An update near the same direction for everybody."""
        common, g = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)
        tree = {}
        for name, leaf in self.server.exchange.update:
            x = torch.randn(leaf.shape, generator=common) + 0.3 * torch.randn(leaf.shape, generator=g)
            tree[name] = 0.01 * size * x
        return tree

    def frame(self, i, tree):
        exchange, version = self.server.exchange, self.server.broadcast.version
        frame = b"".join(self.ends[i].pieces(tree, version, exchange.of_round(version)))
        self.ends[i].commit()
        return frame

    def play(self, sizes, weight=10.0):
        """One round; a size per client, None: it is away."""
        for i, size in enumerate(sizes):
            if size is not None:
                self.server.accept(i, self.frame(i, self.update(size, i)), weight)
        self.server.step()
        return self.server.left_out

    @property
    def theta(self):
        return self.server.flat.vector().clone()


CODECS = ["dense", "topk@fraction=0.3", "lbgm+topk@fraction=0.5,threshold=0.9", "signsgd", "randk@fraction=0.5"]


@pytest.mark.parametrize("method", [*CODECS, "predict", "fedpaq", "intrinsic@dim=8", "fetchsgd@columns=40"])
@pytest.mark.parametrize("lie", [-19.0, 1000.0, 1e14])
def test_a_long_lie_is_left_out_counted_and_named_and_the_round_is_that_without_it(method, lie):
    fleet, honest = Fleet(method), Fleet(method)
    for k in range(3):
        sizes = [1.0] * 8
        sizes[2] = lie
        left_out = fleet.play(sizes)
        honest.play([None if i == 2 else 1.0 for i in range(8)])
        assert list(left_out) == [2] and f"round {k}" and fleet.server.rejected == {2: k + 1}
        assert "more than 10 times the median client's" in fleet.server.reasons[2]
        assert torch.equal(fleet.theta, honest.theta)


@pytest.mark.parametrize("method", CODECS)
def test_updates_of_all_lengths_within_the_bound_count(method):
    fleet = Fleet(method)
    for scale in (1.0, 0.01, 1e-4, 1e-4, 3e-4):  # key frames, learning-rate drops
        assert fleet.play([scale * x for x in (1, 0.1, 3, 1, 0.001, 1, 5, 1)]) == {}
    assert fleet.server.rejected == {}


def test_a_length_that_everybody_changes_at_once_is_no_lie():
    fleet = Fleet("dense")
    for scale in (1.0, 1e3, 1e-3, 1e3, 1e3):
        assert fleet.play([scale] * 8) == {}
    assert list(fleet.play([1e3, 1e3, 1e3, 1e6, 1e3, 1e3, 1e3, 1e3])) == [3]


def test_a_lone_client_is_judged_by_the_rounds_before_and_a_lasting_change_wins():
    fleet = Fleet("dense")
    for k in range(5):
        assert fleet.play([1.0 if i == k else None for i in range(8)]) == {}
    outcomes = [len(fleet.play([1e3, *[None] * 7])) for _ in range(8)]
    assert outcomes[:4] == [1] * 4 and outcomes[-1] == 0


def test_zeros_are_no_norms():
    fleet = Fleet("dense")
    assert fleet.play([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.2]) == {}
    assert fleet.play([0.0] * 8) == {} and fleet.play([1.0] * 8) == {}


def test_buffers_have_a_bound_of_their_own():
    fleet = Fleet("topk@fraction=0.3", norm=True)
    for lie in (False, True):
        for i in range(8):
            tree = fleet.update(1.0, i)
            tree = {n: x * (1e4 if n.startswith("buffer:") else 1.0) for n, x in tree.items()}
            if lie and i == 3:
                tree["buffer:1.running_var"] = tree["buffer:1.running_var"] * -1e4
            fleet.server.accept(i, fleet.frame(i, tree), 10.0)
        fleet.server.step()
    assert list(fleet.server.left_out) == [3] and "buffers' update" in fleet.server.reasons[3]


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.3", "signsgd"])
@pytest.mark.parametrize("first", [0, 2])
def test_a_lie_about_a_buffer_that_nobody_changes_is_left_out(method, first):
    model = build()
    model.register_buffer("positions", torch.linspace(0, 1, 6))
    fleet = Fleet(method, model=model)
    for round in range(4):
        for i in range(8):
            tree = fleet.update(1.0, i)
            tree["buffer:positions"] = torch.full((6,), 1e14 if i == 5 and round >= first else 0.0)
            fleet.server.accept(i, fleet.frame(i, tree), 10.0)
        fleet.server.step()
        assert list(fleet.server.left_out) == ([5] if round >= first else [])
    assert torch.equal(fleet.server.model.get_buffer("positions"), torch.linspace(0, 1, 6))
    assert "the 2-norm of its buffers' update is" in fleet.server.reasons[5]


def test_a_full_memory_judges_early_and_by_what_has_come(monkeypatch):
    monkeypatch.setattr(round_sum, "WAITING_BYTES", 1000)
    monkeypatch.setattr(round_sum, "FEWEST_WAITING", 4)
    fleet, honest = Fleet("dense", 12), Fleet("dense", 12)
    assert list(fleet.play([1.0, 1.0, 500.0, *[1.0] * 8, 500.0])) == [2, 11]
    honest.play([None if i in (2, 11) else 1.0 for i in range(12)])
    assert torch.equal(fleet.theta, honest.theta)


@pytest.mark.parametrize("method", ["bounded@times=0", "bounded+topk@times=0,fraction=0.3"])
def test_without_a_bound_the_lie_counts(method):
    fleet = Fleet(method)
    assert fleet.play([1.0, 1000.0, *[1.0] * 6]) == {} and fleet.theta.norm() > 10


def test_there_is_no_bound_where_only_sums_may_be_seen():
    central = named("dp@share=central").for_round_size(4)
    masked = named("masked").for_round_size(4)
    assert central.watched is None and masked.watched is None
    assert named("dp").watched == named("topk").watched == NormBound()
    assert Fleet(masked).server.dump()["norms"] == []


# Robust rules in a round


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in [*ROBUST, "bounded", "masked"]])
def test_a_rule_stands_over_every_method_or_is_refused(rule, name):
    inner = "dim=8" if name == "intrinsic" else "gamma=0.1" if name in ("fedpara", "pfedpara") else ""
    if name == "fetchsgd":
        with pytest.raises(fb.LocalError, match="steps on the sum of sketches"):
            named(f"{rule}+{name}")
        return
    method = named(f"{rule}+{name}{'@' if inner else ''}{inner}")
    fleet = Fleet(method, model=wide())
    before = fleet.theta
    for _ in range(2):
        assert fleet.play([1.0, -1.0, *[1.0] * 6]) == {}
    assert fleet.server.rejected == {} and torch.equal(fleet.theta, before) == (name == "local")  # which sends nothing
    assert bool(torch.isfinite(fleet.theta).all())


@pytest.mark.parametrize("rule", ROBUST)
def test_masks_sums_and_two_rules_are_refused_with_a_sentence(rule):
    for text, says in [
        ("masked", "masks hide them"),
        ("dp@share=central", "promises that it uses none"),
        ("krum" if rule == "multikrum" else "median" if rule != "median" else "", "in place of the mean already"),
    ]:
        if text and not (text == "median" and rule == "median"):
            with pytest.raises(fb.LocalError, match=says):
                named(f"{rule}+{text}")
    with pytest.raises(fb.LocalError, match="must be an Aggregator"):
        replace(named("dense"), aggregator="median")


@pytest.mark.parametrize("method", CODECS)
@pytest.mark.parametrize("rule", ROBUST)
def test_a_lie_of_usual_length_hardly_moves_a_robust_step(rule, method):
    text = f"{rule}+{method}"
    honest, attacked, mean = Fleet(text), Fleet(text), Fleet(method)
    start = honest.theta
    honest.play([1.0] * 8)
    attacked.play([-9.0, *[1.0] * 7])
    mean.play([-9.0, *[1.0] * 7])

    def along(fleet):
        want = honest.theta - start
        return float((fleet.theta - start) @ want / (want @ want))

    assert along(attacked) > 0.5 and along(mean) < 0.3


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.3,bits=32", "intrinsic@dim=8"])
def test_the_median_of_what_was_sent_is_the_mean_where_all_agree(method):
    plain, robust = Fleet(method), Fleet(f"median+{method}")
    for fleet in (plain, robust):
        for i in range(8):
            fleet.server.accept(i, fleet.frame(i, fleet.update(1.0, 0)), 10.0)
        fleet.server.step()
    torch.testing.assert_close(robust.theta, plain.theta)


def test_coordinates_that_few_sent_are_not_lost():
    fleet = Fleet("median+topk@fraction=0.02,bits=32")
    before = fleet.theta
    for i in range(8):
        tree = {name: torch.zeros(leaf.shape) for name, leaf in fleet.server.exchange.update}
        tree["0.weight"].view(-1)[i] = 1.0  # everybody another one: a median over all is zero
        fleet.server.accept(i, fleet.frame(i, tree), 10.0)
    fleet.server.step()
    moved = (before - fleet.theta)[:8]
    torch.testing.assert_close(moved, torch.full((8,), 1 / 8))


@pytest.mark.parametrize("rule", [*ROBUST, "bounded"])
def test_a_clients_bytes_do_not_depend_on_the_rule(rule):
    plain, robust = Fleet("topk@fraction=0.3"), Fleet(f"{rule}+topk@fraction=0.3")
    frames = [fleet.frame(0, fleet.update(1.0, 3)) for fleet in (plain, robust)]
    assert frames[0] == frames[1] and plain.server.bundle(0) == robust.server.bundle(0)


@pytest.mark.parametrize("rule", ROBUST)
def test_plain_updates_count_beside_frames(rule):
    fleet, frames = Fleet(f"{rule}+topk@fraction=1,bits=32"), Fleet(f"{rule}+topk@fraction=1,bits=32")
    for i in range(6):
        tree = fleet.update(1.0, i)
        if i % 2:
            fleet.server.add(tree, 10.0, client=i)
        else:
            fleet.server.accept(i, fleet.frame(i, tree), 10.0)
        frames.server.accept(i, frames.frame(i, tree), 10.0)
    fleet.server.step()
    frames.server.step()
    torch.testing.assert_close(fleet.theta, frames.theta)


@pytest.mark.parametrize("method", ["dense", "median+topk@fraction=0.3", "geomedian+lbgm", "krum+fedadam"])
def test_a_server_that_was_stored_goes_on_bit_for_bit(method, tmp_path):
    whole, first = Fleet(method), Fleet(method)
    sizes = [[1.0, 1.1, 0.9, 1.0, 1000.0 if k % 2 else 1.0, 1.0, 1.0, 1.0] for k in range(6)]
    for k in range(6):
        whole.play(sizes[k])
    for k in range(3):
        first.play(sizes[k])
    checkpoint.save(tmp_path, first.server, checkpoint.Note(3, {}, 0.0, {}))
    second = Fleet(method)
    assert checkpoint.restore(tmp_path, second.server)[0] is not None
    second.ends = first.ends
    for i in range(8):
        second.server.receiver(i).load(first.server.receiver(i).dump())
    for k in range(3, 6):
        second.play(sizes[k])
    assert torch.equal(whole.theta, second.theta) and whole.server.rejected == second.server.rejected
    assert whole.server.rejected[4] >= 3 and len(whole.server.rejected) == 1
    assert all(torch.equal(a, b) for a, b in zip(*(f.server.dump()["norms"] for f in (whole, second)), strict=True))


def test_a_checkpoint_from_before_there_were_norms_is_taken(tmp_path):
    fleet = Fleet("dense")
    fleet.play([1.0] * 8)
    dumped = {name: x for name, x in fleet.server.dump().items() if name != "norms"}
    fleet.server.load(1, dumped, {})
    assert fleet.play([1.0] * 8) == {}


# What a peer says beside its frame


WEIGHTS = [0, float("nan"), 1e9, 81.0, np.float64(-1)]  # more of them in test_every_lie_server.py


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("method", ["lbgm", "dp@clip=1e6"])
def test_a_weight_that_no_client_has_is_counted_and_nothing_moves(weight, method):
    if method.startswith("dp") and weight in (1e9, 81.0):
        return  # all clients weigh 1 there, so that nothing is known of their examples
    fleet = Fleet(method)
    frame = fleet.frame(0, fleet.update())
    state = fleet.server.receiver(0).dump()
    assert fleet.server.accept(0, frame, weight) is None and "weight must be > 0" in fleet.server.reasons[0]
    assert fleet.server.receiver(0).dump() == state and fleet.server.versions == {} and fleet.server._sum.weight == 0
    with pytest.raises(fb.WireError, match="weight must be > 0"):
        fleet.server.add(fleet.update(), weight)
    assert fleet.server.accept(0, frame, 80.0) is not None


def test_a_client_weighs_no_more_than_the_examples_it_registered():
    fleet = Fleet("dense", max_weight={0: 5.0, 1: 50.0})
    assert fleet.server.accept(0, fleet.frame(0, fleet.update()), 6.0) is None
    assert "1e-09..5" in fleet.server.reasons[0] and "got 6.0 of client 0" in fleet.server.reasons[0]
    assert fleet.server.accept(1, fleet.frame(1, fleet.update()), 50.0) is not None
    assert fleet.server.accept(2, fleet.frame(2, fleet.update()), 80.0) is not None  # not registered: total_weight
    for bad in (0, float("nan"), {3: -1.0}, True):
        with pytest.raises(fb.LocalError, match="max_weight must be"):
            Fleet("dense", max_weight=bad)
    for bad in (0.0, float("nan"), float("inf"), -3.0):
        with pytest.raises(fb.LocalError, match="total_weight must be"):
            fb.Server(build(), "dense", fb.Key(0), total_weight=bad)


def spoiled():
    """(what is wrong, how to spoil an update)."""
    return [
        ("must be a dict", lambda t: list(t.values())),
        ("must hold the tensors", lambda t: {n: x for n, x in t.items() if n != "0.bias"}),
        ("must hold the tensors", lambda t: t | {"more": torch.ones(2)}),
        ("must hold the tensors", lambda t: {f"x{n}": x for n, x in t.items()}),
        ("0.bias must be float32 of shape", lambda t: t | {"0.bias": torch.ones(4)}),
        ("0.bias must be float32 of shape", lambda t: t | {"0.bias": t["0.bias"].double()}),
        ("0.bias must be float32 of shape", lambda t: t | {"0.bias": None}),
        ("0.bias is not finite", lambda t: t | {"0.bias": t["0.bias"] * torch.nan}),
        ("could leave float32's range", lambda t: t | {"0.bias": torch.full((5,), 3e38)}),
    ]


@pytest.mark.parametrize(("says", "spoil"), spoiled())
def test_a_plain_update_that_does_not_fit_is_refused_before_anything_moves(says, spoil):
    fleet, clean = Fleet("dense", norm=True), Fleet("dense", norm=True)
    with pytest.raises(fb.WireError, match=says):
        fleet.server.add(spoil(fleet.update()), 10.0)
    for f in (fleet, clean):
        tree = f.update()
        f.server.add({n.removeprefix("buffer:"): tree[n] for n in reversed(tree)}, 10.0)  # any order, module's names
        f.server.step()
    assert torch.equal(fleet.theta, clean.theta)


# Absurd values in well-formed frames


def absurd(tree, kind):
    tree = {name: x.clone() for name, x in tree.items()}
    first = next(iter(tree.values()))
    first.view(-1)[0] = {"nan": torch.nan, "inf": torch.inf, "huge": 4.7e36, "tiny": 1e-44, "largest": 3.4e38}[kind]
    return tree


@pytest.mark.parametrize("kind", ["huge", "tiny"])
@pytest.mark.parametrize("method", [*CODECS, "scaffold", "median+topk", "geomedian", "krum+signsgd", "intrinsic@dim=8"])
def test_absurd_numbers_of_one_client_cost_nobody_else_anything(method, kind):
    fleet = Fleet(method)
    for _ in range(3):
        for i in range(8):
            tree = fleet.update(1.0, i)
            try:
                frame = fleet.frame(i, absurd(tree, kind) if i == 0 else tree)
            except fb.LocalError:
                continue  # the codec cannot even say it
            fleet.server.accept(i, frame, 10.0)
        fleet.server.step()
    assert bool(torch.isfinite(fleet.theta).all()) and fleet.theta.norm() < 100
    assert set(fleet.server.rejected) <= {0}


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.3", "lbgm", "predict", "median+fedpaq"])
def test_whatever_stands_in_a_frame_a_server_raises_its_errors_alone(method):
    rng = np.random.default_rng(0)
    fleet = Fleet(method)
    fleet.play([1.0] * 8)
    for _ in range(60):
        good = bytearray(fleet.frame(0, fleet.update(1.0, int(rng.integers(99)))))
        fleet.ends[0].resync()
        payload = bytearray(Frame.parse(bytes(good)).payload)
        for at in rng.integers(len(payload), size=3):
            payload[at] = rng.integers(256)
        fleet.server.accept(0, restamp(bytes(good), bytes(payload)), 10.0)
    for i in range(1, 8):
        fleet.server.accept(i, fleet.frame(i, fleet.update(1.0, i)), 10.0)
    fleet.server.step()
    assert bool(torch.isfinite(fleet.theta).all())


# Runs


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.2", "median+topk@fraction=0.2", "multikrum", "trimmed"])
def test_an_attacked_training_keeps_its_accuracy(method):
    honest, attacked = (training(method, liars) for liars in ((), (3,)))
    assert honest > 0.8 and attacked > honest - 0.05


def training(method, liars, n=10, rounds=8):
    g = torch.Generator().manual_seed(1)
    truth = torch.randn(12, 3, generator=g)
    x = torch.randn(n + 1, 60, 12, generator=g)
    y = (x @ truth).argmax(-1)
    model = nn.Linear(12, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    server = fb.Server(copy.deepcopy(model), method, fb.Key(0), total_weight=60.0 * n)
    clients = [fb.Client(copy.deepcopy(model), method, fb.Key(7 + i), number=i) for i in range(n)]
    for _ in range(rounds):
        for i, client in enumerate(clients):
            client.receive(server.bundle(i))
            start = [p.detach().clone() for p in client.model.parameters()]
            for _ in range(4):
                client.model.zero_grad()
                nn.functional.cross_entropy(client.model(x[i]), y[i]).backward()
                with torch.no_grad():
                    for p in client.model.parameters():
                        p -= 0.5 * p.grad
            if i in liars:
                with torch.no_grad():
                    for p, s in zip(client.model.parameters(), start, strict=True):
                        p.copy_(s + 19 * (s - p))
            server.accept(i, client.reply(), 60.0)
        server.step()
    return float((server.model(x[n]).argmax(-1) == y[n]).float().mean())


def test_a_simulated_run_counts_and_names_what_it_leaves_out():
    """One client's data are 30 times as large, so its gradient is 900 times as long."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 20, 4, generator=g)
    x[2] *= 30
    clients = [(x[i], x[i].sum(1)) for i in range(6)]

    def loss(a, b):
        return (a[:, 0] - b).pow(2).mean()

    result = fb.federate(nn.Linear(4, 1), clients, "dense", 2, loss=loss, local=fb.LocalSGD(lr=1e-3))
    assert [r.rejected for r in result.reports] == [1, 1] and [r.clients for r in result.reports] == [5, 5]
    assert any("client 2 was left out" in note and "median client's" in note for note in result.notes)


def test_partials_of_predict_tell_what_was_ever_sent():
    codec = fb.Predict(fb.chain(fb.TopK(0.25)))
    spec, keys = fb.Spec((8,)), fb.codecs.Keys(fb.Key(0), fb.Key(0))
    message, _ = codec.encode(torch.arange(8.0), spec, codec.init(spec), codec.memory(spec), keys)
    partial, _ = codec.partial(message, spec, codec.init(spec))
    assert isinstance(partial, Partial) and partial.support is not None and partial.support.tolist() == [6, 7]


def test_a_rule_that_may_not_fit_into_memory_is_said():
    (note,) = memory_note(Krum(), 100, 10**9, machine=8 * 10**9)
    assert "400.0 GB" in note and "8.0 GB" in note
    assert memory_note(Krum(), 3, 10, 8 * 10**9) == memory_note(None, 100, 10**9, 8 * 10**9) == []
