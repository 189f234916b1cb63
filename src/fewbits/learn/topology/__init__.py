"""Graphs for training without a server: `topology.torus(16)`, `topology.ring(6)`, ..., and how they change."""

from fewbits.learn.topology.changing import Periodic, Sleepy
from fewbits.learn.topology.graphs import (
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
from fewbits.learn.topology.make import from_weights, graph
from fewbits.learn.topology.value import Network, Topology

__all__ = [
    "NAMED",
    "Network",
    "Periodic",
    "Sleepy",
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
