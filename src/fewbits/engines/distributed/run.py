"""DistributedRun: a gossip run with a process per node; the frames, the models and the logs of the engine `gossip`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from fewbits.engines.common.allocator import keep_memory
from fewbits.engines.common.checkpoint import Note
from fewbits.engines.common.first_batch import check_first_batch
from fewbits.engines.common.logs import LEDGER, resume_logs, sync_logs
from fewbits.engines.common.run_lock import RunLock
from fewbits.engines.common.same_run import START, check_longer
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.common.task_identity import model_digest
from fewbits.engines.distributed.collect import wait_for_collection
from fewbits.engines.distributed.frame_exchange import FrameExchange
from fewbits.engines.distributed.node_checkpoints import NodeCheckpoints, newest_common_round
from fewbits.engines.distributed.peer import Peer
from fewbits.engines.distributed.round_reports import RoundReports
from fewbits.engines.distributed.world import World
from fewbits.engines.gossip.report import GossipReport, totals
from fewbits.engines.gossip.result import GossipResult
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import MARGIN, average
from fewbits.engines.gossip.trainer import StepReport, Trainer
from fewbits.errors import LocalError
from fewbits.learn.gossip import GossipMethod, Node
from fewbits.links import Ledger
from fewbits.rng import Key
from fewbits.topology import Network
from fewbits.wire.identity import canonical

Watch = Callable[[GossipReport], None]


class DistributedRun:
    """One node of a run, in this process; every process creates one with the same arguments.

    Rank 0 has the ledger and the metrics. Models travel to it in evaluated rounds only, so that the metrics have no
    line for other rounds. With a folder, every node writes its own checkpoints there. A run resumes from the newest
    round of which all nodes have a checkpoint.

    Args:
        task: model and data, with one part per node.
        method: the method of all nodes.
        network: the graph of every round, with as many nodes as processes.
        schedule: rounds, evaluations and checkpoints.
        key: same key, same bytes as a `GossipRun`.
        folder: where the run keeps logs and checkpoints; None: in memory only.
        world: the processes; it ends all of them when one fails.

    Raises:
        LocalError: the arguments do not fit each other, or `world` is missing.

    In every process that torchrun starts:

        with World() as world:
            result = DistributedRun(task, Malcom(), topology.ring(4), Schedule(200), Key(0), "runs/four", world).run()
    """

    def __init__(
        self,
        task: Task,
        method: GossipMethod,
        network: Network,
        schedule: Schedule,
        key: Key,
        folder: Path | str | None = None,
        world: World | None = None,
    ) -> None:
        if world is None:
            raise LocalError("DistributedRun: give the World of its context: `with World() as world:`")
        _check(network, world)
        GossipSetup(task, method, network, key)
        schedule.check_no_budget()
        check_first_batch(task, who="node")
        self.world, self.schedule = world, schedule
        self.folder = Path(folder) if folder is not None else None
        self.node = Node(task.model, method, network, world.rank, key)
        self.setup = GossipSetup(task, self.node.method, network, key)
        start = model_digest(task.model, self.node.flat.shared)
        self._settings = self.setup.settings | {START: start}  # what the parts of a run have in common
        self.repairs = 0  # bytes that this node sent again
        self._checkpoints = NodeCheckpoints(self.folder / "checkpoints", world.rank) if self.folder else None
        self._trainer = Trainer(task, key, self.node.flat)
        self._logs = self.folder if world.rank == 0 else None
        self._lock: RunLock | None = None  # at rank 0, of the folder
        self._reports = RoundReports(world, self.node, self._trainer.local_tensors, self.setup, self._logs)
        self._seconds = 0.0

    def run(self, watch: Watch | None = None) -> GossipResult:
        """Run the remaining rounds; at rank 0, calls `watch` with each report."""
        threads = torch.get_num_threads()
        keep_memory()
        torch.set_num_threads(1)  # as in the other engines: the same bits, and one core per process
        try:
            self._compile_kernels()
            self._resume()
            peer = Peer(self.node, FrameExchange(self.world, 8 * len(self.node.flat.shared) + MARGIN))
            while self.node.round < self.schedule.rounds:
                self._round(peer, watch)
        finally:
            torch.set_num_threads(threads)
        reports, models = self._reports, self._reports.models
        models = models if models is not None else self.node.vectors.x[None]
        self.node.flat.shared.copy_(average(reports.shared(models)))
        self.node.flat.refresh()
        self.node.flat.release()
        notes = reports.notes + totals(reports.reports)
        return GossipResult(self.setup.task.model, models, reports.reports, self.ledger, notes)

    def _compile_kernels(self) -> None:
        """One process of each machine compiles; the others load what it has stored."""
        first = self.world.process.local_rank == 0
        if first:
            self.setup.compile_kernels()
        self.world.agree({})
        if not first:
            self.setup.compile_kernels()

    def _facts(self) -> dict[str, str]:
        """The facts that all processes must share."""
        schedule = self.schedule
        return self._settings | {
            "spec": canonical(self.node.spec),
            "schedule": f"{schedule.rounds} rounds, evaluated every {schedule.evaluate_every}, "
            f"saved every {schedule.checkpoint_every}",
        }

    def _resume(self) -> None:
        """Return to the newest common round: this node, and at rank 0 the logs."""
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock.of(self._logs)
        local = {"checkpoints": self._checkpoints.describe() if self._checkpoints else "[]"}
        facts_by_rank, note = self.world.agree(self._facts(), local), None
        round = newest_common_round([facts["checkpoints"] for facts in facts_by_rank])
        check_longer(round, self.schedule.rounds)
        if self._checkpoints and not round:
            self._checkpoints.drop(after=0)
        elif self._checkpoints:
            note, tensors = self._checkpoints.read(round, self._settings)
            self.node.load(tensors)
            self._seconds = note.seconds
        if self._logs is not None:
            lines = resume_logs(self._logs, note.sizes if note else None)
            self._reports.resume([GossipReport(**line) for line in lines])
        self.ledger = Ledger(self._logs / LEDGER if self._logs else None)

    def _round(self, peer: Peer, watch: Watch | None) -> None:
        began, number, schedule = time.perf_counter(), self.node.round + 1, self.schedule
        self._exchange_frames(peer)
        last = number == schedule.rounds
        evaluated = last or number % schedule.evaluate_every == 0
        saved = last or number % schedule.checkpoint_every == 0
        measures = self._reports.collect(number, evaluated, self.ledger) if evaluated or saved else None
        self._seconds += time.perf_counter() - began
        if measures is not None:
            report = self._reports.write(number, measures, self.ledger, self._seconds)
            if watch:
                watch(report)
        if saved:
            wait_for_collection(self.world)  # all have written the previous checkpoint: an older one may go
            self._save(number)

    def _exchange_frames(self, peer: Peer) -> None:
        steps: list[StepReport] = []

        def step() -> bytes:
            frame, report = self._trainer.step(self.node)
            steps.append(report)
            return frame

        self.repairs += peer.round(step)
        self._reports.add(steps)

    def _save(self, number: int) -> None:
        """Write a checkpoint; at rank 0, once its logs are on disk."""
        if self._checkpoints is None:
            return
        sizes = sync_logs(self._logs, self.ledger) if self._logs is not None else {}
        self._checkpoints.write(self.node.dump(), Note(number, sizes, self._seconds, self._settings))


def _check(network: object, world: World) -> None:
    size = world.process.size
    if isinstance(network, Network) and size != network.n:
        raise LocalError(
            f"the network has {network.n} nodes and torchrun started {size} processes; start one per node: "
            f"--nproc-per-node {network.n}, on one machine"
        )
