"""GossipConfig: the settings of a run without a server, as its folder's config.json holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import fewbits.topology as graphs
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import RunConfig, check_listed
from fewbits.errors import LocalError
from fewbits.learn.gossip import GossipMethod
from fewbits.methods import gossip
from fewbits.rng import Key
from fewbits.topology import IntermittentNodes, Network, Topology

UNUSED = ("per_round", "holdout", "keep_frames", "loss", "metric", "optimizer")  # options of runs with a server


@dataclass(frozen=True)
class GossipConfig(RunConfig):
    """A RunConfig whose clients are the nodes of a graph."""

    clients: int = 16  # nodes
    method: str = "malcom"
    rounds: int = 200
    batch_size: int = 32
    steps: int | None = 1  # per round
    evaluate_every: int = 10
    topology: str = "torus"  # a name, random_regular:DEGREE, erdos_renyi:SHARE or file:PATH
    weights: str = "metropolis"  # or uniform
    inactive: float = 0.0  # share of inactive nodes in a round
    on_disk: bool = False  # map the nodes' vectors from a file

    participants: ClassVar[str] = "nodes"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule().check_no_budget()
        check_listed("gossip", {"data": self.data, "model": self.model})
        given = [name for name in UNUSED if getattr(self, name)]
        if given or self.device != "cpu":
            raise LocalError(f"a run without a server has no {', '.join(given or ['device'])}")
        self.network()

    @staticmethod
    def options(method: str) -> dict[str, object]:
        """A method's options with their defaults."""
        return gossip.options(method)

    def share_held_out(self, method: object) -> float:
        """Zero: no data is held out; the test set evaluates every node's model."""
        return 0.0

    def gossip_method(self) -> GossipMethod:
        """The method with its options."""
        return gossip.build(self.method, self.settings)

    def graph(self) -> Topology:
        """The graph of all nodes."""
        return graphs.by_name(self.topology, self.clients, Key(self.seed).fold("graph"), self.weights)

    def network(self) -> Network:
        """The graph of every round."""
        return (
            IntermittentNodes(self.graph(), self.inactive, Key(self.seed).fold("inactive"))
            if self.inactive
            else self.graph()
        )


def _gossip(config: RunConfig) -> GossipConfig:
    assert isinstance(config, GossipConfig)
    return config


@dataclass(frozen=True)
class GossipComparison(Comparison):
    """Several methods and seeds on one network."""

    kind: ClassVar[type[RunConfig]] = GossipConfig
    command: ClassVar[str] = "gossip"

    @cached_property
    def built(self) -> Mapping[str, GossipMethod]:
        """Each method by its label, built once for all seeds."""
        return {label: _gossip(config).gossip_method() for label, config in self.configs.items()}
