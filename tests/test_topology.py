"""Laws of graphs and mixing matrices; the oracles are NumPy and networkx."""

from dataclasses import fields

import networkx
import numpy as np
import pytest

from fewbits import Key, LocalError, topology
from fewbits.topology import IntermittentNodes, Network, Periodic, Topology

GRAPHS = {
    "ring": topology.ring(7),
    "ring of two": topology.ring(2),
    "torus": topology.torus(12),
    "torus of four": topology.torus(4),
    "complete": topology.complete(5),
    "star": topology.star(6),
    "hypercube": topology.hypercube(8),
    "exponential": topology.exponential(10),
    "regular": topology.random_regular(10, 3),
    "random": topology.erdos_renyi(12, 0.3),
    "uniform star": topology.star(6, weights="uniform"),
    "one node": topology.graph(1, []),
}
NETWORKS: dict[str, Network] = GRAPHS | {
    "periodic": Periodic((topology.ring(6), topology.star(6), topology.complete(6))),
    "intermittent": IntermittentNodes(topology.torus(12), 0.3, Key(1)),
    "intermittent periodic": IntermittentNodes(Periodic((topology.ring(6), topology.star(6))), 0.2, Key(2)),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_rounds_weights_are_symmetric_and_doubly_stochastic(network):
    for round in range(1, 13):
        w = network.at(round).weights
        assert (w == w.T).all() and (w >= -1e-12).all()
        np.testing.assert_allclose(w.sum(0), 1, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_the_spectral_gap_is_one_minus_the_second_largest_eigenvalue(graph):
    magnitudes = sorted(np.abs(np.linalg.eigvals(graph.weights)), reverse=True)
    assert graph.spectral_gap == pytest.approx(1 - magnitudes[1] if graph.n > 1 else 1.0, abs=1e-9)
    assert graph.n == 1 or graph.spectral_gap > 0


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_neighbours_are_those_with_a_weight(graph):
    for i in range(graph.n):
        found = [j for j in range(graph.n) if j != i and graph.weights[i, j] > 0]
        assert list(graph.neighbours(i)) == found == list(graph.neighbour_weights(i))
        assert all(graph.neighbour_weights(i)[j] == graph.weights[i, j] for j in found)


def test_graphs_by_name_are_those_of_networkx():
    for made, reference in (
        (GRAPHS["ring"], networkx.cycle_graph(7)),
        (GRAPHS["torus"], networkx.grid_2d_graph(3, 4, periodic=True)),
        (GRAPHS["star"], networkx.star_graph(5)),
        (GRAPHS["hypercube"], networkx.hypercube_graph(3)),
        (GRAPHS["exponential"], networkx.circulant_graph(10, [1, 2, 4])),
    ):
        assert networkx.is_isomorphic(networkx.Graph(list(made.edges)), reference)
    assert {len(GRAPHS["regular"].neighbours(i)) for i in range(10)} == {3}


def test_metropolis_weights_are_one_over_one_plus_the_larger_degree():
    graph = topology.graph(4, [(0, 1), (1, 2), (1, 3), (3, 2)])
    degree = [1, 3, 2, 2]
    for (i, j), w in zip(graph.edges, graph.edge_weights, strict=True):
        assert w == 1 / (1 + max(degree[i], degree[j]))
    assert set(topology.graph(4, graph.edges, "uniform").edge_weights) == {1 / 4}


def test_mixing_leaves_inactive_nodes_alone_and_keeps_the_mean():
    graph, active = topology.torus(9), np.arange(9) % 3 > 0
    w = graph.with_active(active).weights
    x = np.random.default_rng(0).normal(size=(9, 5))
    np.testing.assert_array_equal((w @ x)[~active], x[~active])
    np.testing.assert_allclose((w @ x).mean(0), x.mean(0), atol=1e-12)
    among = np.ix_(active, active)
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_array_equal((w * off)[among], (graph.weights * off)[among])


def test_expected_weights_are_the_mean_over_many_rounds():
    for network in (NETWORKS["periodic"], NETWORKS["intermittent"]):
        mean = np.mean([network.at(t).weights for t in range(1, 3001)], 0)
        np.testing.assert_allclose(network.expected().weights, mean, atol=0.02)


def test_the_inactive_nodes_are_drawn_from_the_key():
    first, again, other = (IntermittentNodes(topology.ring(30), 0.5, Key(seed)) for seed in (1, 1, 2))
    draws = [[network.at(t).inactive for t in range(1, 9)] for network in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
    assert 60 < sum(map(len, draws[0])) < 180


def test_random_graphs_depend_on_the_key_alone():
    assert topology.erdos_renyi(20, 0.2, Key(1)) == topology.erdos_renyi(20, 0.2, Key(1))
    assert topology.erdos_renyi(20, 0.2, Key(1)) != topology.erdos_renyi(20, 0.2, Key(2))


def test_a_mixing_matrix_survives_from_weights():
    w = topology.torus(8).weights
    np.testing.assert_allclose(topology.from_weights(w).weights, w, atol=1e-15)


def test_a_file_gives_its_graph(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("# a ring\n0 1\n1 2  # the far side\n\n2 3\n3 0\n")
    assert topology.from_file(path) == topology.ring(4) == topology.by_name(f"file:{path}", 4)


def test_names_and_digests_tell_graphs_apart():
    assert len({graph.digest for graph in GRAPHS.values()}) == len(GRAPHS) - 1  # a star's two rules agree
    assert topology.ring(7) == GRAPHS["ring"] and hash(topology.ring(7)) == hash(GRAPHS["ring"])


def test_networks_have_identities_without_names_of_python():
    ring, nodes = topology.ring(5), (1, 2)
    networks = [
        ring,
        topology.ring(6),
        topology.complete(5),
        ring.scaled(0.5),
        ring.with_active([True, True, True, True, False]),
        Periodic((ring,)),
        Periodic((ring, topology.star(5))),
        IntermittentNodes(ring, 0.5, Key(0)),
        IntermittentNodes(ring, 0.25, Key(0)),
        IntermittentNodes(ring, 0.5, Key(0, nodes)),
        IntermittentNodes(Periodic((ring,)), 0.5, Key(0)),
    ]
    assert len({network.identity for network in networks}) == len(networks)
    for network in networks:
        cls = type(network)
        other = type("Renamed", (cls,), {"__repr__": lambda self: "renamed"})
        given = {f.name: getattr(network, f.name) for f in fields(network) if f.init}
        assert other(**given).identity == cls(**given).identity == network.identity
        assert cls.__name__ not in network.identity
    assert IntermittentNodes(ring, np.float64(0.5), Key(0)).identity == networks[7].identity
    assert Topology(5, (), (), frozenset({np.int64(1)})).identity == Topology(5, (), (), frozenset({1})).identity


def test_periodic_graphs_may_be_connected_only_together():
    halves = (Topology(4, ((0, 1), (2, 3)), (0.5, 0.5)), Topology(4, ((1, 2),), (0.5,)))
    Periodic(halves).check()
    with pytest.raises(LocalError, match="not connected: no path leads from node 0 to 2, 3"):
        Periodic(halves[:1]).check()


UNEVEN = np.array([[0.5, 0.5, 0], [0.4, 0.2, 0.4], [0, 0.4, 0.6]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: topology.graph(4, [(0, 1), (2, 3)]), "not connected: no path leads from node 0 to 2, 3"),
        (lambda: topology.graph(3, [(0, 3)]), "among 0..2; got 0-3"),
        (lambda: topology.graph(3, [(1, 1)]), "two different nodes"),
        (lambda: topology.graph(2, [(0, 1)], "best"), "metropolis, uniform; got 'best'"),
        (lambda: topology.from_weights(UNEVEN), r"symmetric; w\[0, 1\] is 0.5 and w\[1, 0\] 0.4"),
        (lambda: topology.from_weights(np.ones((2, 3))), r"square and finite; got shape \(2, 3\)"),
        (lambda: topology.from_weights(np.ones((2, 2))), "row 0 sums to 2"),
        (lambda: topology.from_weights(np.array([[1.5, -0.5], [-0.5, 1.5]])), r"negative; w\[0, 1\] is -0.5"),
        (lambda: Topology(2, ((0, 1),), (1.5,)), "edge weights of node 0 sum to 1.5"),
        (lambda: Topology(2, ((0, 1),), (float("nan"),)), "must not be negative"),
        (lambda: Topology(2, ((1, 0),), (0.5,)), "smaller first"),
        (lambda: Topology(3, ((1, 2), (0, 1)), (0.3, 0.3)), "ascending"),
        (lambda: topology.ring(1), "2 nodes or more; got 1"),
        (lambda: topology.torus(7), "7 nodes form no grid"),
        (lambda: topology.hypercube(6), "power of two; got 6"),
        (lambda: topology.random_regular(5, 3), "n \\* degree even"),
        (lambda: topology.erdos_renyi(40, 0.001), "none of 200 draws was connected"),
        (lambda: topology.by_name("moebius", 4), "unknown topology 'moebius'; choose one of ring"),
        (lambda: topology.by_name("ring:3", 4), "unknown topology"),
        (lambda: topology.by_name("random_regular:x", 4), "expected a number"),
        (lambda: topology.from_file("/nowhere"), "cannot be read"),
        (lambda: IntermittentNodes(topology.ring(3), 1.0, Key(0)), r"in \[0, 1\); got 1.0"),
        (lambda: Periodic((topology.ring(3), topology.ring(4))), r"got sizes \[3, 4\]"),
        (lambda: topology.ring(4).with_active([True]), "one truth value per node, 4; got 1"),
        (lambda: topology.ring(4).neighbour_weights(4), "nodes are 0..3"),
    ],
)
def test_a_wrong_network_is_an_error(make, message):
    with pytest.raises(LocalError, match=message):
        make()


@pytest.mark.parametrize("text", ["0 1 2\n", "a b\n", "0 0\n", "-1 2\n", "0 9999999999\n", ""])
def test_a_file_that_is_no_list_of_edges_is_an_error(tmp_path, text):
    path = tmp_path / "edges.txt"
    path.write_text(text)
    with pytest.raises(LocalError, match=r"edges\.txt"):
        topology.from_file(path)


@pytest.mark.parametrize("n", [6, 20])
def test_a_layout_gives_every_node_a_fixed_position(n):
    places = topology.layout(topology.ring(n))
    assert places.shape == (n, 2) and len(np.unique(places.round(6), axis=0)) == n
    np.testing.assert_array_equal(places, topology.layout(topology.ring(n)))
