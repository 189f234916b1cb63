"""NodePool: workers in processes of one thread each; only commands and small answers pass through pipes."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fewbits.engines.common.allocator import keep_memory
from fewbits.engines.common.processes import HUNG_UP, Children, Message, checked, one_thread, pack, unpack
from fewbits.engines.gossip.node_worker import Mixed, NodeWorker
from fewbits.engines.gossip.setup import GossipSetup
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import StepReport
from fewbits.learn.evaluation import Scores
from fewbits.learn.gossip.neighbour_watch import LeftOut
from fewbits.learn.seeding import guarded


class NodePool:
    """`processes` workers; use it as a context manager. A single worker runs in this process."""

    def __init__(self, setup: GossipSetup, vectors: SharedVectors, processes: int) -> None:
        self._setup, self._vectors = setup, vectors
        self._n, self._count = setup.network.n, min(processes, setup.network.n)
        self._threads_before = torch.get_num_threads()
        self._worker: NodeWorker | None = None
        self._children = Children()

    def __enter__(self) -> NodePool:
        one_thread()
        keep_memory()
        try:
            if self._count == 1:
                self._worker = NodeWorker(self._setup, self._vectors)
            else:
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for number in range(self._count):
            self._children.fork(_serve, self._setup, self._vectors, number, self._count)
        for pipe in self._children.pipes:  # each answers once its nodes' first vectors are written
            self._answer(pipe)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        self._children.end()

    def load(self, links: dict[str, Tensor]) -> None:
        """Restore the states of all links."""
        self._command("load", {}, save_tensors(links))

    def dump(self) -> dict[str, Tensor]:
        """The states of all links."""
        if self._worker is not None:
            return self._worker.dump()
        return {name: x for _, data in self._answers("dump", {}) for name, x in load_tensors(data).items()}

    def step(self) -> list[StepReport]:
        """Train all active nodes; their reports in the nodes' order."""
        reports = [StepReport(**report) for part in self._command("step", {}) for report in part]
        return sorted(reports, key=lambda report: report.node)

    def mix(self, lengths: dict[int, int]) -> list[Mixed]:
        """Deliver the frames, of these lengths by node, and mix; what came of it, by node."""
        found = self._in_order(self._command("mix", {str(i): length for i, length in lengths.items()}))
        return [Mixed(zeros, [LeftOut(*each) for each in left_out]) for zeros, left_out in found]

    def evaluate(self) -> list[Scores]:
        """Each node's sums over the test set."""
        return [Scores(*sums) for sums in self._in_order(self._command("evaluate", {}))]

    def _in_order(self, parts: list[list[Any]]) -> list[Any]:
        """Worker k has nodes k, k + count, ...; return the answers in the nodes' order."""
        return [parts[i % self._count][i // self._count] for i in range(self._n)]

    def _command(self, name: str, argument: dict[str, Any], data: bytes = b"") -> list[Any]:
        if self._worker is not None:
            return [_execute(self._worker, name, argument, data)[0]]
        return [answer for answer, _ in self._answers(name, argument, data)]

    def _answers(self, name: str, argument: dict[str, Any], data: bytes = b"") -> list[tuple[Any, bytes]]:
        command = pack(({"do": name, "argument": argument}, data))
        for pipe in self._children.pipes:
            with suppress(*HUNG_UP):  # `_answer` reads the failure reason
                pipe.send_bytes(command)
        return [self._answer(pipe) for pipe in self._children.pipes]

    def _answer(self, pipe: Connection) -> tuple[Any, bytes]:
        (message,) = self._children.hear(pipe)
        answer, data = checked(message)
        return answer["result"], data


def _execute(worker: NodeWorker, name: str, argument: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
    match name:
        case "load":
            return worker.load(load_tensors(data)), b""
        case "dump":
            return None, save_tensors(worker.dump())
        case "step":
            return [report.asdict() for report in worker.step()], b""
        case "mix":
            return worker.mix({int(i): length for i, length in argument.items()}), b""
        case _:
            return worker.evaluate(), b""


def _serve(pipe: Connection, setup: GossipSetup, vectors: SharedVectors, number: int, count: int) -> None:
    """A worker's process: execute commands until "stop"."""
    worker = NodeWorker(setup, vectors, number, count)
    answer: Message = {"result": None}, b""
    with guarded():  # the process ends afterwards: nothing in it needs its generators restored before
        while True:
            pipe.send_bytes(pack(answer))
            ((command, data),) = unpack(pipe.recv_bytes())
            if command["do"] == "stop":
                return
            result, data = _execute(worker, command["do"], command["argument"], data)
            answer = {"result": result}, data
