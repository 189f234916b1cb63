"""Laws of nodes and of the methods they follow; the oracles are the papers' algorithms in NumPy."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fewbits import (
    Delta,
    DesyncError,
    ErrorFeedback,
    Golomb,
    Key,
    LocalError,
    LookBack,
    Quantize,
    Raw,
    Spec,
    TopK,
    WireError,
    chain,
    topology,
)
from fewbits.coders.golomb import predicted_bits
from fewbits.learn import DSGD, L1, Choco, DeepSqueeze, GroupL1, Malcom, Node, NoProx
from fewbits.learn.gossip.auto import best_gamma, disagreement
from fewbits.topology import IntermittentNodes, Periodic
from gossip_play import DIM, KEY, Point, models, nodes, play, pull, rest, scatter, targets

RING = topology.ring(6)
INTERMITTENT = IntermittentNodes(topology.torus(6), 0.3, Key(5))
PERIODIC = Periodic((topology.ring(6), topology.star(6)))
TOPK = chain(TopK(0.3))
METHODS = {
    "dsgd": DSGD(),
    "choco": Choco(),
    "choco, top-k": Choco(TOPK, gamma=0.3),
    "choco, mixed": Choco(position="mixed"),
    "choco, from zero": Choco(start="zero"),
    "choco, momentum": Choco(momentum=0.5),
    "malcom": Malcom(regulariser=L1(0.01)),
    "deepsqueeze": DeepSqueeze(),
}
NETWORKS = {"ring": RING, "complete": topology.complete(6), "intermittent": INTERMITTENT, "periodic": PERIODIC}


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """x with all but its k entries of largest magnitude zero."""
    result = np.zeros_like(x)
    top = np.argsort(-np.abs(x), kind="stable")[:k]
    result[top] = x[top]
    return result


def choco_in_numpy(w, start, wanted, lr, gamma, k, rounds, mixed=False):
    """Algorithm 2 of Koloskova et al. 2019, or Algorithm 1 of 2020; x, xhat: (n, dim)."""
    n = len(w)
    x, xhat = np.tile(start, (n, 1)), np.tile(start, (n, 1))
    for _ in range(rounds):
        half = x - lr * (x - wanted)
        if mixed:
            half = half + gamma * (w - np.eye(n)) @ xhat
        q = np.stack([largest(half[i] - xhat[i], k) for i in range(n)])
        xhat = xhat + q
        x = half if mixed else half + gamma * (w - np.eye(n)) @ xhat
    return x


@pytest.mark.parametrize("position", ["half", "mixed"])
def test_choco_equals_the_papers_algorithm_in_numpy(position):
    method, wanted = Choco(TOPK, 0.3, position=position), targets(6)
    found = nodes(method, RING)
    start = models(found)[0].astype(np.float64)
    for _ in range(200):
        play(found, lambda i: pull(wanted[i], 0.1))
    stated = choco_in_numpy(RING.weights, start, wanted.double().numpy(), 0.1, 0.3, 6, 200, position == "mixed")
    np.testing.assert_allclose(models(found), stated, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(models(found).mean(0), wanted.mean(0), atol=1e-6)


def test_without_gradients_the_consensus_distance_falls_linearly():
    found = nodes(Choco(TOPK, gamma=0.4), RING)
    scatter(found)
    distances = []
    while not distances or distances[-1] > 1e-4:  # float32 ends near 1e-6
        play(found, lambda _: rest)
        distances.append(np.linalg.norm(models(found) - models(found).mean(0)))
        assert len(distances) < 200
    logs, rounds = np.log(distances), np.arange(len(distances))
    assert np.corrcoef(rounds, logs)[0, 1] < -0.99


def test_dense_gossip_on_the_complete_graph_is_central_averaging():
    found, wanted = nodes(DSGD(), topology.complete(6)), targets(6).double().numpy()
    x = models(found)[0].astype(np.float64)
    for _ in range(20):
        play(found, lambda i: pull(targets(6)[i], 0.1))
        x = np.mean([x - 0.1 * (x - t) for t in wanted], 0)
        np.testing.assert_allclose(models(found), np.tile(x, (6, 1)), atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_mixing_keeps_the_mean_of_all_nodes(method, network):
    if isinstance(method, Malcom):
        method = Malcom(regulariser=L1(0.0))  # another one moves the mean, on purpose
    found = nodes(method, network)
    scatter(found)
    before = models(found).astype(np.float64).mean(0)
    for _ in range(8):
        play(found, lambda _: rest)
        np.testing.assert_allclose(models(found).astype(np.float64).mean(0), before, atol=1e-6)


def test_an_inactive_nodes_model_does_not_change():
    found = nodes(Choco(), INTERMITTENT)
    scatter(found)
    total = 0
    for round in range(1, 13):
        before, inactive = models(found), sorted(INTERMITTENT.at(round).inactive)
        assert [node.me for node in found if not node.active] == inactive
        play(found, lambda i: pull(targets(6)[i], 0.1))
        after = models(found)
        np.testing.assert_array_equal(after[inactive], before[inactive])
        assert all((after[i] != before[i]).any() for i in range(6) if i not in inactive)
        total += len(inactive)
    assert total > 5


@pytest.mark.parametrize("position", ["half", "mixed"])
def test_malcom_without_a_regulariser_is_choco_bit_for_bit(position):
    codec = chain(Quantize(bits=4), Golomb())
    choco = nodes(Choco(codec, 0.7, position=position), RING)
    malcom = nodes(Malcom(codec, 0.7, position=position, regulariser=L1(0.0)), RING)
    for _ in range(30):
        frames = [play(found, lambda i: pull(targets(6)[i], 0.1)) for found in (choco, malcom)]
        assert frames[0] == frames[1]
    np.testing.assert_array_equal(models(choco), models(malcom))


def test_malcom_ends_with_exact_zeros_where_the_regulariser_wins():
    wanted = targets(6) + torch.linspace(-1.0, 1.0, DIM)
    found = nodes(Malcom(chain(Raw()), 1.0, regulariser=L1(0.5)), topology.complete(6))
    for _ in range(80):
        play(found, lambda i: pull(wanted[i], 0.1))
    mean = wanted.mean(0).numpy()
    best = np.sign(mean) * np.maximum(np.abs(mean) - 0.5, 0)  # argmin of the sum over nodes, entry by entry
    clear = np.abs(np.abs(mean) - 0.5) > 0.15
    assert ((models(found) == 0) == (best == 0))[:, clear].all()
    assert 0 < (best[clear] == 0).sum() < clear.sum()
    np.testing.assert_allclose(models(found).mean(0)[clear], best[clear], atol=0.06)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_both_forms_of_memory_give_the_same_bits(method):
    two, copies = nodes(method, RING, "two"), nodes(method, RING, "copies")
    for _ in range(15):
        assert play(two, lambda i: pull(targets(6)[i], 0.1)) == play(copies, lambda i: pull(targets(6)[i], 0.1))
    np.testing.assert_array_equal(models(two), models(copies))
    assert not two[0].vectors.copies


@pytest.mark.parametrize("network", [RING, INTERMITTENT, PERIODIC], ids=["ring", "intermittent", "periodic"])
def test_every_copy_equals_the_public_vector(network):
    found = nodes(Choco(), network, "copies")
    for _ in range(10):
        play(found, lambda i: pull(targets(6)[i], 0.1))
    for node in found:
        for j, copy in node.vectors.copies.items():
            assert torch.equal(copy, found[j].vectors.public)


def test_with_start_zero_the_first_frames_carry_the_model():
    common, zero = (nodes(Choco(chain(Raw()), 0.5, start=start), RING) for start in ("common", "zero"))
    for found in (common, zero):
        for _ in range(5):
            play(found, lambda i: pull(targets(6)[i], 0.1))
    np.testing.assert_allclose(models(common), models(zero), atol=1e-6)


def test_momentum_on_one_node_is_that_of_sgd():
    lonely = Node(Point(), DSGD(momentum=0.9), topology.graph(1, []), 0, KEY)
    target = targets(1)[0]
    x, velocity = Point().x.detach().double().numpy(), np.zeros(DIM)
    for _ in range(20):
        lonely.step(pull(target, 0.05))
        lonely.mix()
        velocity = 0.9 * velocity + (x - target.numpy())
        x = x - 0.05 * velocity
    np.testing.assert_allclose(lonely.flat.params, x, atol=1e-5)


def test_every_method_brings_all_nodes_near_the_common_minimum():
    wanted = targets(6)
    for name in ("dsgd", "choco, from zero", "choco, momentum", "deepsqueeze"):
        found, method = nodes(METHODS[name], RING), METHODS[name]
        for _ in range(40):
            play(found, lambda i: pull(wanted[i], 0.1))
        assert np.abs(models(found).mean(0) - wanted.mean(0).numpy()).max() < 0.05, method


# Proximal steps


def test_l1_is_the_minimiser_by_definition():
    spec = Spec.of({"w": torch.zeros(7)})
    z, mu, eta = torch.tensor([-2.0, -0.3, -0.2, 0.0, 0.1, 0.3, 5.0]), 2.0, 0.1
    grid = np.linspace(-6, 6, 120_001)
    best = [grid[np.argmin((grid - float(v)) ** 2 / 2 + eta * mu * np.abs(grid))] for v in z]
    found = L1(mu)(z, eta, spec)
    np.testing.assert_allclose(found, best, atol=1e-4)
    assert (found == 0).sum() == 3
    assert L1(mu).penalty(z, spec) == pytest.approx(2.0 * 7.9)


def test_group_l1_makes_whole_outputs_zero():
    tree = {"w": torch.tensor([[0.1, 0.2], [3.0, 4.0]]), "b": torch.tensor([0.05, 2.0])}
    z, eta, mu = torch.cat([x.reshape(-1) for x in tree.values()]), 0.1, 2.0
    stated = []
    for row in [tree["w"][0], tree["w"][1], tree["b"][:1], tree["b"][1:]]:
        v = row.double().numpy()
        stated.append(v * max(0.0, 1 - eta * mu * np.sqrt(len(v)) / np.linalg.norm(v)))
    found = GroupL1(mu)(z, eta, Spec.of(tree))
    np.testing.assert_allclose(found, np.concatenate(stated), rtol=1e-6)
    assert (found == 0).tolist() == [True, True, False, False, True, False]


@pytest.mark.parametrize("prox", [L1(3.0), GroupL1(3.0)], ids=repr)
def test_a_proximal_step_leaves_buffers_alone(prox):
    tree = {"w": torch.ones(2, 2), "buffer:running_var": torch.full((3,), 0.1)}
    found = prox(torch.cat([x.reshape(-1) for x in tree.values()]), 1.0, Spec.of(tree))
    assert found.tolist() == [0.0] * 4 + [torch.tensor(0.1).item()] * 3


@pytest.mark.parametrize("prox", [NoProx(), L1(0.0), GroupL1(0.0)], ids=repr)
def test_without_a_regulariser_the_proximal_step_changes_no_bit(prox):
    z = torch.tensor([-0.0, 1e-40, -3.0])
    found = prox(z, 0.1, Spec.of({"w": z}))
    assert torch.equal(found.view(torch.int32), z.view(torch.int32))


# Frames and trouble


def test_the_closed_form_is_within_a_thousandth_of_the_frames_length():
    node = Node(Point(200_000), Malcom(gamma=0.5), RING, 0, KEY)
    noise = torch.from_numpy(Key(8).normal(200_000) * Key(9).normal(200_000))
    frame = node.step(lambda model: float(model.params.add_(noise, alpha=0.01).numel() > 0) * 0.01)
    levels = node.sender.message[0].carrier.numpy().astype(np.int64)
    predicted = predicted_bits(np.bincount(levels + 7, minlength=15))
    assert abs(8 * (len(frame) - 16 - 4) - predicted) < 0.001 * predicted + 16  # one scale of 4 bytes; two fills


def broken(memory, lost=3, rounds=8):
    """A run in which node 1 loses a frame of node 0 and key frames repair it; and an undisturbed run."""
    found, reference = nodes(Choco(), RING, memory), nodes(Choco(), RING, memory)
    for round in range(1, rounds + 1):
        play(reference, lambda i: pull(targets(6)[i], 0.1))
        frames = {node.me: node.step(pull(targets(6)[node.me], 0.1)) for node in found}
        for node in found:
            for j in node.expected:
                if (round, node.me, j) != (lost, 1, 0):
                    try:
                        node.receive(j, frames[j])
                    except DesyncError:
                        assert (node.me, j, round) == (1, 0, lost)
            if round == lost and node.me == 1:
                with pytest.raises(DesyncError, match=r"node 1, round 3, waits for frames of nodes \[0\]"):
                    node.mix()
                node.ask(0)
                with pytest.raises(DesyncError, match="waits for key frames"):
                    node.mix()
                for j in sorted(node.wanted):
                    node.receive(j, found[j].key_frame())
            node.mix()
    return found, reference


@pytest.mark.parametrize("memory", ["two", "copies"])
def test_key_frames_repair_a_lost_frame(memory):
    found, reference = broken(memory)
    np.testing.assert_allclose(models(found), models(reference), atol=1e-5)


@pytest.mark.parametrize(("memory", "wanted"), [("two", {0, 2}), ("copies", {0})])
def test_after_a_gap_the_error_names_the_needed_key_frames(memory, wanted):
    found = nodes(Choco(), RING, memory)
    first = found[0].step(rest)
    found[0]._eta = None  # its round went by without node 1
    found[0].round += 1
    second = found[0].step(rest)
    with pytest.raises(DesyncError, match="frame 0 comes next on this link; got frame 1"):
        found[1].receive(0, second)
    assert found[1].wanted == wanted
    with pytest.raises(DesyncError, match="waits for a key frame of node 0"):
        found[1].receive(0, first)


def test_a_repeated_frame_is_an_error_without_a_request():
    found = nodes(Choco(), RING)
    frames = {node.me: node.step(rest) for node in found}
    found[1].receive(0, frames[0])
    before = found[1].vectors.mixture.clone()
    with pytest.raises(DesyncError, match="frame 1 comes next"):
        found[1].receive(0, frames[0])
    assert torch.equal(found[1].vectors.mixture, before) and not found[1].wanted
    found[1].receive(2, frames[2])
    found[1].mix()


def test_bytes_that_are_no_frame_change_nothing():
    found, good = nodes(Choco(), RING), nodes(Choco(), RING)
    frames = {node.me: node.step(rest) for node in found}
    {node.me: node.step(rest) for node in good}
    for k in range(0, len(frames[0]), 3):
        damaged = bytearray(frames[0])
        damaged[k] ^= 0x40
        with pytest.raises(WireError):
            found[1].receive(0, bytes(damaged))
    with pytest.raises(WireError):
        found[1].receive(0, b"")
    for found_or_good in (found, good):
        for j in (0, 2):
            found_or_good[1].receive(j, frames[j])
        found_or_good[1].mix()
    assert torch.equal(found[1].vectors.x, good[1].vectors.x)


def test_a_damaged_or_unasked_key_frame_changes_nothing():
    found = nodes(Choco(), RING, "copies")
    for node in found:
        node.step(rest)
    key_frame = found[0].key_frame()
    with pytest.raises(DesyncError, match="wants no key frame of node 0"):
        found[1].receive(0, key_frame)
    found[1].ask(0)
    before = found[1].vectors.copies[0].clone()
    for cut in (key_frame[:-4], key_frame[:20], key_frame + b"1234"):
        with pytest.raises(WireError):
            found[1].receive(0, cut)
    nan = found[0].vectors.public.clone()
    found[0].vectors.public[3] = float("nan")
    with pytest.raises(WireError, match="not finite"):
        found[1].receive(0, found[0].key_frame())
    found[0].vectors.public.copy_(nan)
    assert torch.equal(found[1].vectors.copies[0], before) and found[1].wanted == {0}
    found[1].receive(0, key_frame)
    assert not found[1].wanted


@pytest.mark.parametrize("network", [RING, INTERMITTENT], ids=["ring", "intermittent"])
@pytest.mark.parametrize("name", ["choco", "choco, mixed", "choco, momentum", "malcom", "dsgd", "deepsqueeze"])
def test_a_restored_node_continues_with_the_same_bytes(name, network):
    found = nodes(METHODS[name], network)
    for _ in range(4):
        play(found, lambda i: pull(targets(6)[i], 0.1))
    again = nodes(METHODS[name], network)
    for old, new in zip(found, again, strict=True):
        new.load(old.dump())
    for _ in range(4):
        assert play(found, lambda i: pull(targets(6)[i], 0.1)) == play(again, lambda i: pull(targets(6)[i], 0.1))
    np.testing.assert_array_equal(models(found), models(again))


def test_another_nodes_dump_is_an_error():
    found = nodes(Choco(), topology.star(4))
    with pytest.raises(LocalError, match="not the dump of node 0"):
        found[0].load(found[1].dump())


# gamma


def test_the_predicted_disagreement_is_that_of_a_simulation():
    graph, dim, rng = RING, 4000, np.random.default_rng(0)
    modes = Counter(np.round(1 - graph.eigenvalues, 2).tolist())
    for g, gain, noise, mixed in ((0.5, 1.0, 0.2, False), (0.3, 0.4, 0.1, False), (0.4, 0.8, 0.2, True)):
        x, e, u = np.zeros((6, dim)), np.zeros((6, dim)), rng.normal(size=(6, dim))
        laplacian = graph.weights - np.eye(6)
        found = []
        for t in range(300):
            half = x + u + (g * laplacian @ e if mixed else 0)
            r = half - e
            e = e + gain * r + rng.normal(size=r.shape) * np.sqrt(noise * np.mean(r**2))
            x = half if mixed else half + g * laplacian @ e
            if t >= 200:
                found.append(np.sum((x - x.mean(0)) ** 2) / dim)
        # u is one unit in each of six modes; the prediction sums over five
        assert disagreement(g, gain, noise, modes, mixed) == pytest.approx(np.mean(found), rel=0.1)


def test_gamma_is_one_for_exact_frames_and_smaller_for_noisier_ones():
    modes = Counter(np.round(1 - topology.torus(16).eigenvalues, 2).tolist())
    found = [best_gamma(1.0, noise, modes) for noise in (0.0, 0.3, 0.5, 0.8)]
    assert found[0] == 1.0 and all(a > b for a, b in pairwise(found))
    with pytest.raises(LocalError, match="no step converges"):
        best_gamma(1.0, 5.0, modes)


def test_all_nodes_find_the_same_gamma():
    found = nodes(Choco(chain(TopK(0.1))), RING)
    assert len({node.method.gamma for node in found}) == 1 and 0 < found[0].method.step_size < 1


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choco(gamma=-0.1), r'gamma must be a number in \(0, 1\], or "auto"; got -0.1'),
        (lambda: Choco(gamma=0), "gamma must be"),
        (lambda: Choco(gamma="best"), "gamma must be"),
        (lambda: L1(-1e-5), "mu must be a finite number, 0 or more; got -1e-05"),
        (lambda: GroupL1(float("nan")), "mu must be"),
        (lambda: DSGD(momentum=1.0), r"momentum must be a number in \[0, 1\)"),
        (lambda: Choco(position="before"), "position must be one of half, mixed"),
        (lambda: Malcom(start="random"), "Malcom: start must be one of"),
        (lambda: Choco(ErrorFeedback(TOPK)), "counted twice"),
        (lambda: Choco(Delta(TOPK)), "has a state"),
        (lambda: DSGD(LookBack(chain(Raw()), threshold=0.1)), "has a state"),
        (lambda: Choco().step_size, "gamma is still 'auto'"),
        (lambda: Node(Point(), Choco(), RING, 6, KEY), "the nodes 0..5; got 6"),
        (lambda: Node(Point(), "choco", RING, 0, KEY), r"such as fb.learn.Choco\(\); got 'choco'"),
        (lambda: Node(Point(), Choco(), "ring", 0, KEY), "such as fb.topology.ring"),
        (lambda: Node(Point(), Choco(), RING, 0, 3), "must be a Key"),
        (lambda: Node(Point(), Choco(), INTERMITTENT, 0, KEY, "two"), 'need memory="copies"'),
        (lambda: Node(Point(), Choco(), RING, 0, KEY, "three"), "one of two, copies; got 'three'"),
        (
            lambda: Node(Point(), Choco(), topology.Topology(3, ((0, 1),), (0.5,)), 0, KEY),
            "not connected: no path leads from node 0 to 2",
        ),
    ],
)
def test_a_wrong_argument_is_an_error(make, message):
    with pytest.raises(LocalError, match=message):
        make()


def test_steps_out_of_order_are_errors():
    node = nodes(Choco(), RING)[0]
    with pytest.raises(DesyncError, match=r"node 0, round 1, waits for frames of nodes \[1, 5\]"):
        node.mix()
    node.step(rest)
    with pytest.raises(LocalError, match="it has taken its step; mix"):
        node.step(rest)
    with pytest.raises(LocalError, match="within round 1"):
        node.dump()
    with pytest.raises(LocalError, match="has no link with node 3"):
        node.receive(3, b"")
    with pytest.raises(LocalError, match="train must return eta"):
        nodes(Choco(), RING)[0].step(lambda model: -1.0)
    inactive = next(n for n in nodes(Choco(), INTERMITTENT) if not n.active)
    with pytest.raises(LocalError, match="it is inactive"):
        inactive.step(rest)


def test_a_tensor_with_nan_is_named():
    with pytest.raises(LocalError, match="x has 20 NaN"):
        nodes(Choco(), RING)[0].step(lambda model: float(model.params.fill_(float("nan")).numel()))


def test_buffers_travel_without_loss_and_are_averaged():
    def make(me):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.5)
        return Node(model, Choco(gamma=1.0), topology.complete(3), me, KEY)

    found = [make(me) for me in range(3)]

    def shift(i):
        def train(model):
            model.named()["1.running_mean"].fill_(float(i))
            return 0.1

        return train

    play(found, shift)
    for node in found:
        torch.testing.assert_close(node.flat.named()["1.running_mean"], torch.full((4,), 1.0))
