"""gossip: a whole training without a server in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fewbits.engines.common.any_task import ClientData, task_over
from fewbits.engines.common.initial_model import InitialModel, Model
from fewbits.engines.common.run_files import MODEL, NODES, check_continues, write_nodes, write_weights
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Local, Loss
from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.result import GossipResult
from fewbits.engines.gossip.run import GossipRun
from fewbits.errors import LocalError
from fewbits.files import placed
from fewbits.learn.gossip import GossipMethod
from fewbits.learn.local import LocalSGD
from fewbits.learn.metrics import Metric
from fewbits.methods.gossip import gossip_method
from fewbits.report.gossip import GossipRecord, report
from fewbits.report.write import FIGURES, write
from fewbits.rng import Key
from fewbits.topology import IntermittentNodes, Network, Topology
from fewbits.training.arguments import check_call
from fewbits.training.subtitle import subtitle


def gossip(
    model: Model,
    nodes: Any,
    network: Network,
    method: str | GossipMethod,
    rounds: int = 50,
    *,
    test: Any = None,
    local: Local | Callable[..., Any] | None = None,
    inactive: float = 0.0,
    loss: Loss | None = None,
    metric: Metric | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    seed: int = 0,
    processes: int = 1,
    evaluate_every: int = 1,
    out: Path | str | None = None,
    watch: Callable[[GossipReport], None] | None = None,
) -> GossipResult:
    """Train one model per node of a graph, without a server, and count every byte.

    Every round: local steps; one compressed frame to all neighbours; x = x_half + gamma sum_j w_ij (xhat_j - xhat_i).

    Args:
        model: the initial model; its weights become the mean of all nodes' models. Or a function that makes one, of a
            `fb.Key` or of no argument, as `federate` takes it; `result.model` has the module.
        nodes: the data of each node, in any form that `federate` takes; or a function of the node's number.
        network: a graph, such as `fb.topology.torus(16)`.
        method: text such as "malcom" or "choco@bits=3", or a `GossipMethod` such as `fb.learn.Malcom()`.
        rounds: rounds of the run; the same call with more rounds and the same `out` extends it, fewer are refused.
        test: what every node's own model is evaluated on, in any of these forms; None: no evaluation.
        local: a node's training in a round: a `fb.LocalSGD`, a `fb.LocalTraining`, or a function of (model, data,
            context). By default one SGD step, learning rate 0.1, 10 examples. A proximal step, as Malcom's, needs SGD.
        inactive: probability that a node is inactive in a round, in [0, 1).
        loss: loss(output, y), the batch's mean; None: cross-entropy, or the model's own, as in `federate`.
        metric: metric(output, y), the mean over a batch or its (sum, count), or one of fb.metrics; measured on `test`.
        collate: makes a batch of a list of examples, for data sets; it pads texts of several lengths.
        seed: same seed, same bytes, for any number of processes.
        processes: worker processes; results do not depend on it.
        evaluate_every: rounds between two evaluations.
        out: folder for logs and checkpoints, and at the end for the models, the figures and report.html, as
            `fewbits gossip` leaves them; an earlier part of the same run in it is continued. None: nothing is left.
        watch: a function that gets every report.

    Returns:
        A `fb.simulation.GossipResult`: the models, the reports and the ledger; the history as a table, and a picture.

    Raises:
        LocalError: the arguments do not fit each other, the model or a function of yours fails on one batch before
            the first round, or `out` holds another run or more rounds.
        FewbitsError: a disk is full, or files cannot be opened; it names the place, and has the cause.

    Example:
        >>> import torch, fewbits as fb
        >>> nodes = [(torch.randn(20, 3), torch.arange(20) % 2) for _ in range(4)]
        >>> result = gossip(torch.nn.Linear(3, 2), nodes, fb.topology.ring(4), "malcom@gamma=0.5", rounds=2)
        >>> len(result.reports), result.models.shape
        (2, torch.Size([4, 8]))

    Source: the methods' papers; see each method.
    """
    check_call(seed=seed, watch=watch, out=out)
    schedule, key = Schedule(rounds, processes=processes, evaluate_every=evaluate_every), Key(int(seed))
    local = LocalSGD(lr=0.1, steps=1) if local is None else local
    if not isinstance(network, Network):
        raise LocalError(f"gossip: network must be a Topology, such as fb.topology.torus(16); got {network!r}")
    initial = InitialModel.of(model, key)
    made = network.n if callable(nodes) and not isinstance(nodes, Iterable) else None
    task = task_over(initial.module, ClientData(nodes, collate, made, "node"), test, local, loss, metric)
    varying = IntermittentNodes(network, inactive, key.fold("inactive")) if inactive != 0 else network
    if out is not None:
        check_continues(Path(out))
    run = GossipRun(task, gossip_method(method), varying, schedule, key, out)
    if run.folder is not None:
        with placed(run.folder):
            (run.folder / FIGURES).unlink(missing_ok=True)  # only a finished run has it
    result = run.run(watch)
    if run.folder is not None:
        config = {"method": repr(run.method), "network": repr(varying), "rounds": rounds, "seed": seed}
        line = subtitle(task, f"{network.n} nodes", f"in each of {rounds} rounds")
        config |= {"local": repr(task.local)}
        result.notes.extend(_finish(run, result, network.at(1), config, line))
    return result


def _finish(
    run: GossipRun, result: GossipResult, graph: Topology, config: Mapping[str, object], line: str
) -> list[str]:
    """Write what only a finished run has; returns a sentence for each file that could not be made."""
    assert run.folder is not None
    name = type(run.method).__name__.lower()
    with placed(run.folder):
        write_weights(result.model, run.folder / MODEL)
        write_nodes(result.model, result.models, run.folder / NODES)
        record = GossipRecord.read(run.folder, name, int(str(config["seed"])))
        return write(run.folder, report(f"{name}, without a server", [record], config, graph, None, line))
