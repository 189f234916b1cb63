"""GossipSetup: the task, method, network and key that all nodes of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fewbits.engines.common.task import Local, Task
from fewbits.engines.common.task_identity import local_settings, task_settings
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.federated.compile_kernels import compile_lift
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import LocalSGD
from fewbits.learn.local_training import LocalTraining
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
        check_local(self.task.local, method)

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings that a resumed run must share with its earlier part."""
        sizes = self.task.sizes
        return {
            "method": canonical(self.method),
            "network": self.network.identity,
            "key": self.key.text(),
            "local training": local_settings(self.task.local),
            "nodes": f"{self.network.n} with {'unknown' if sizes is None else sum(sizes)} examples",
            **task_settings(self.task),
        }

    def compile_kernels(self) -> None:
        """Compile or load the kernels of the method's codec; nothing of the run changes."""
        spec = shared_values.spec(FlatModel(duplicate(self.task.model)))
        compile_lift(shared_values.with_buffers(self.method.lift, spec), spec)


def check_local(local: Local, method: GossipMethod) -> None:
    """LocalError where the method computes with SGD's learning rate, or something of a node's would not last."""
    if not isinstance(local, LocalSGD) and not method.prox.is_identity:
        raise LocalError(
            f"gossip: the proximal step of {type(method).__name__} computes with the learning rate of SGD, so it needs "
            f"local=fb.LocalSGD(...), or a method without that step, such as choco; got a {type(local).__name__}"
        )
    if isinstance(local, LocalTraining) and local.keep_optimizer:
        raise LocalError(
            "gossip: a node's optimizer begins anew in every round; leave out keep_optimizer=True, or give the method "
            "a momentum, which lasts"
        )
