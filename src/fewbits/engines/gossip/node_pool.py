"""NodePool: players in processes of one thread each; only orders and small answers pass through pipes."""

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
from fewbits.engines.common.task import Task
from fewbits.engines.gossip.node_worker import NodeWorker
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import Sent
from fewbits.learn.gossip import GossipMethod
from fewbits.rng import Key
from fewbits.topology import Network

Arguments = tuple[Task, GossipMethod, Network, Key, SharedVectors]


class NodePool:
    """`processes` players; use as a context manager. With one process the player lives in this one."""

    def __init__(
        self, task: Task, method: GossipMethod, network: Network, key: Key, rows: SharedVectors, processes: int
    ) -> None:
        self._arguments = (task, method, network, key, rows)
        self._n, self._count = network.n, min(processes, network.n)
        self._threads_before = torch.get_num_threads()
        self._player: NodeWorker | None = None
        self._children = Children()

    def __enter__(self) -> NodePool:
        one_thread()
        keep_memory()
        try:
            if self._count == 1:
                self._player = NodeWorker(*self._arguments)
            else:
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for number in range(self._count):
            self._children.fork(_serve, self._arguments, number, self._count)
        for pipe in self._children.pipes:  # all have written their nodes' first vectors
            self._hear(pipe)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        self._children.end()

    def load(self, ends: dict[str, Tensor]) -> None:
        """Give every node the ends of its links back."""
        self._order("load", {}, save_tensors(ends))

    def dump(self) -> dict[str, Tensor]:
        """The ends of all links."""
        if self._player is not None:
            return self._player.dump()
        return {name: x for _, data in self._answers("dump", {}) for name, x in load_tensors(data).items()}

    def step(self) -> list[Sent]:
        """The first half of a round, by node."""
        found = [sent for part in self._order("step", {}) for sent in part]
        return sorted((Sent(**sent) for sent in found), key=lambda sent: sent.node)

    def mix(self, lengths: dict[int, int]) -> list[int]:
        """The second half; zeros by node."""
        return self._woven(self._order("mix", {str(i): length for i, length in lengths.items()}))

    def evaluate(self) -> list[tuple[float, float]]:
        """(accuracy, loss) by node."""
        return [(accuracy, loss) for accuracy, loss in self._woven(self._order("evaluate", {}))]

    def _woven(self, parts: list[list[Any]]) -> list[Any]:
        """Player k has nodes k, k + count, ...: back into the nodes' order."""
        return [parts[i % self._count][i // self._count] for i in range(self._n)]

    def _order(self, what: str, given: dict[str, Any], data: bytes = b"") -> list[Any]:
        if self._player is not None:
            return [_obey(self._player, what, given, data)[0]]
        return [answer for answer, _ in self._answers(what, given, data)]

    def _answers(self, what: str, given: dict[str, Any], data: bytes = b"") -> list[tuple[Any, bytes]]:
        order = pack(({"do": what, "given": given}, data))
        for pipe in self._children.pipes:
            with suppress(*HUNG_UP):  # its last words are read below
                pipe.send_bytes(order)
        return [self._hear(pipe) for pipe in self._children.pipes]

    def _hear(self, pipe: Connection) -> tuple[Any, bytes]:
        (message,) = self._children.hear(pipe)
        answer, data = checked(message)
        return answer["found"], data


def _obey(player: NodeWorker, what: str, given: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
    match what:
        case "load":
            return player.load(load_tensors(data)), b""
        case "dump":
            return None, save_tensors(player.dump())
        case "step":
            return [sent.asdict() for sent in player.step()], b""
        case "mix":
            return player.mix({int(i): length for i, length in given.items()}), b""
        case _:
            return player.evaluate(), b""


def _serve(pipe: Connection, arguments: Arguments, number: int, count: int) -> None:
    """A player's process: take orders until told to stop."""
    player = NodeWorker(*arguments, number, count)
    answer: Message = {"found": None}, b""
    while True:
        pipe.send_bytes(pack(answer))
        ((order, data),) = unpack(pipe.recv_bytes())
        if order["do"] == "stop":
            return
        found, data = _obey(player, order["do"], order["given"], data)
        answer = {"found": found}, data
