"""gossip: a whole training without a server in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Loss, Task
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.run import GossipResult, GossipRun
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import LocalSGD
from fewbits.rng import Key
from fewbits.topology import IntermittentNodes, Network


def gossip(
    model: nn.Module,
    nodes: Sequence[tuple[Tensor, Tensor]],
    network: Network,
    method: GossipMethod,
    rounds: int,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    local: LocalSGD | None = None,
    inactive: float = 0.0,
    loss: Loss | None = None,
    key: Key = Key(0),
    processes: int = 1,
    evaluate_every: int = 1,
    folder: Path | str | None = None,
    watch: Callable[[GossipReport], None] | None = None,
) -> GossipResult:
    """Train a model per node on the nodes' data, counting real bytes; `model` becomes the mean of theirs.

    `nodes`: one (x, y) pair of tensors each. `local`: how a node trains in a round, by default one step of SGD with
    learning rate 0.1 on 10 examples. `inactive`: the share of nodes that sleep in a round, drawn from the key.
    `folder`: where to keep logs and checkpoints; a folder with an earlier part of the same run continues it. Same key,
    same bytes, for any number of processes.
    """
    task = Task.of(model, nodes, test, local or LocalSGD(lr=0.1, steps=1), loss)
    net = IntermittentNodes(network, inactive, key.fold("inactive")) if inactive else network
    schedule = Schedule(rounds, processes=processes, evaluate_every=evaluate_every)
    return GossipRun(task, method, net, schedule, key, folder).run(watch)
