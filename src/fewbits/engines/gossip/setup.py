"""GossipSetup: the task, method, network and key that all nodes of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fewbits.engines.common.task import Task, sgd
from fewbits.engines.common.task_identity import task_settings
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.federated.compile_kernels import compile_lift
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.rng import Key
from fewbits.topology import Network
from fewbits.wire.identity import canonical


@dataclass(frozen=True, eq=False)
class GossipSetup:
    """What all nodes of a run share. Raises LocalError when a part has the wrong type or the sizes differ."""

    task: Task  # one part per node
    method: GossipMethod
    network: Network
    key: Key

    def __post_init__(self) -> None:
        sgd(self.task)
        _ = self.task.pairs
        method, network, parts = self.method, self.network, self.task.clients
        if not isinstance(method, GossipMethod):
            raise LocalError(f"gossip: method must be a GossipMethod, such as fb.learn.Malcom(); got {method!r}")
        if not isinstance(network, Network):
            raise LocalError(f"gossip: network must be a Topology, such as fb.topology.torus(16); got {network!r}")
        if not isinstance(self.key, Key):
            raise LocalError(f"gossip: key must be a Key, such as Key(0); got {self.key!r}")
        network.check()
        if parts != network.n:
            raise LocalError(f"gossip: the network has {network.n} nodes, but the data has {parts} parts")

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings that a resumed run must share with its earlier part."""
        return {
            "method": canonical(self.method),
            "network": self.network.identity,
            "key": self.key.text(),
            "local training": canonical(self.task.local),
            "nodes": f"{self.network.n} with {sum(len(part) for part in self.task.parts)} examples",
            **task_settings(self.task),
        }

    def compile_kernels(self) -> None:
        """Compile or load the kernels of the method's codec; nothing of the run changes."""
        spec = shared_values.spec(FlatModel(duplicate(self.task.model)))
        compile_lift(shared_values.with_buffers(self.method.lift, spec), spec)
