"""Graphs for training without a server, such as `topology.torus(16)`, and networks that change from round to round."""

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
