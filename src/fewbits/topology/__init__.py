"""Graphs for training without a server, and networks that change from round to round.

A `Topology` has a mixing matrix: symmetric, not negative, with rows that sum to 1. The named graphs (`ring`, `torus`,
`hypercube`, `exponential`) make one from a number of nodes, `graph` from edges, `from_weights` from a matrix.
`Periodic` and `IntermittentNodes` are networks whose graph is another one in each round.
"""

from fewbits.topology.changing import IntermittentNodes, Periodic
from fewbits.topology.graphs import (
    NAMED,
    by_name,
    complete,
    erdos_renyi,
    exponential,
    from_file,
    hypercube,
    layout,
    random_regular,
    ring,
    star,
    torus,
)
from fewbits.topology.make import from_weights, graph
from fewbits.topology.value import Network, Topology

__all__ = [
    "NAMED",
    "Network",
    "Periodic",
    "IntermittentNodes",
    "Topology",
    "by_name",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_file",
    "from_weights",
    "graph",
    "hypercube",
    "layout",
    "random_regular",
    "ring",
    "star",
    "torus",
]
