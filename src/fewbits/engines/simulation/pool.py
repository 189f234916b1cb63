"""Pool: workers in processes of one thread each, drawing clients from one shared counter.

Only bytes pass between the processes: a JSON header and a frame. With one process the worker lives in this one.
"""

from __future__ import annotations

import multiprocessing
import selectors
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from fewbits.checks import check_whole
from fewbits.engines.common.allocator import keep_memory
from fewbits.engines.common.processes import Children, Message, checked, one_thread, pack, starting, unpack
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.shared_memory import SharedBuffer, SharedRing
from fewbits.engines.simulation.worker import ALONE, Reply, Worker, burst, chunks
from fewbits.learn.evaluation import Scores
from fewbits.learn.method import Method
from fewbits.learn.seeding import guarded
from fewbits.links import StateStore
from fewbits.rng import Key

AHEAD = 4  # frames a worker may be ahead of the server, beside the burst in hand
NO_MORE = 2**62  # the shared counter, past any client's number
Arguments = tuple[Task, Method, Key, Path, str]  # of every worker: the last two are the states' folder and the device


class Shared(NamedTuple):
    """Memory that one worker shares with the server."""

    counter: Any  # of all workers: the next client, or piece, to draw
    buffer: SharedBuffer  # of all workers
    ring: SharedRing


class Pool:
    """Plays rounds on `processes` workers; use as a context manager."""

    def __init__(self, task: Task, method: Method, key: Key, states: Path, processes: int, device: str = "cpu") -> None:
        """`processes` >= 1; results do not depend on it. Training on another device than the CPU takes one process."""
        check_whole("processes", processes, 1, numpy=True)
        self._arguments = (task, method, key, states, device)
        self._task, self._count = task, processes
        self._threads_before = torch.get_num_threads()
        self._children = Children()
        self._heard = selectors.DefaultSelector()  # of all pipes; made once, not for each message
        self._inbox: deque[Message] = deque()
        self._worker: Worker | None = None

    def __enter__(self) -> Pool:
        one_thread()
        keep_memory()  # before forking: the workers inherit it
        try:
            if self._count == 1:
                self._worker = Worker(*self._arguments, "0", ALONE)
            else:
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        states = self._arguments[3]
        for i in range(self._count):  # one by one: workers that made and opened each other's at once would collide
            StateStore(states, writer=str(i), durable=False).close()
        context = multiprocessing.get_context("fork")
        dense = 4 * sum(x.numel() for x in self._task.model.state_dict().values())
        with starting("memory that worker processes share"):
            self._next = context.Value("q", 0)
            self._buffer = SharedBuffer(dense)
            self._rings = [SharedRing(context, dense, AHEAD + burst(dense)) for _ in range(self._count)]
        for i in range(self._count):
            shared = Shared(self._next, self._buffer, self._rings[i])
            pipe = self._children.fork(_serve, shared, self._arguments, str(i))
            self._heard.register(pipe, selectors.EVENT_READ)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self._worker is not None:
            self._worker.close()
        if self._children:
            self._draw_no_more()
            for ring in self._rings:
                ring.abandon()
        self._heard.close()
        self._children.end()

    def _draw_no_more(self) -> None:
        """After a failure: workers stop after the client in hand. One that was killed may have died with the lock."""
        lock = self._next.get_lock()
        if lock.acquire(timeout=1.0):
            try:
                self._next.value = NO_MORE
            finally:
                lock.release()

    @property
    def workers(self) -> int:
        """How many follow the public model."""
        return self._count

    def secure(
        self, step: str, number: int, clients: Sequence[int], common: bytes = b"", each: Sequence[bytes] = ()
    ) -> list[bytes]:
        """Every client's message in a step of the round's secure sum, in the order of `clients`.

        `common`: what all of them have from the server; `each`: what each has beside it.
        """
        each = each or [b""] * len(clients)
        if self._worker is not None:
            return [self._worker.secure.message(step, number, c, common, x) for c, x in zip(clients, each, strict=True)]
        order = {"do": "secure", "step": step, "round": number, "clients": list(clients)}
        self._tell(order | {"lengths": [len(common), *map(len, each)]}, b"".join([common, *each]))
        return [data for _, data in self._collect(clients)]

    def set_deliveries(self, clients: Sequence[int], roster: bytes, each: Sequence[bytes]) -> None:
        """What clients must know of the round's secure sum to mask their words."""
        if self._worker is not None:
            self._worker.secure.set_deliveries(roster, dict(zip(clients, each, strict=True)))
            return
        order = {"do": "deliveries", "clients": list(clients), "lengths": [len(roster), *map(len, each)]}
        self._tell(order, b"".join([roster, *each]))
        for _ in range(len(self._children)):
            self._take()

    def round(
        self, number: int, clients: list[int], bundle: bytes, personal: Sequence[bytes] = ()
    ) -> Iterator[tuple[Reply, bytes | memoryview]]:
        """Every client's reply, in the order of `clients`, as soon as that order allows.

        `bundle`: the public model's; `personal`: one per client, for personal downlinks. A frame may be a view
        of shared memory, valid until the next reply is asked for.
        """
        if self._worker is not None:
            self._worker.receive(bundle)
            self._worker.set_bundles(dict(zip(clients, personal, strict=False)))
            self._worker.expect(clients)
            left = iter(clients)
            while replies := [(reply, _joined(pieces)) for reply, pieces in self._worker.play(number, left)]:
                yield from replies
            return
        lengths = [len(bundle), *map(len, personal)]
        order = {"do": "round", "round": number, "clients": clients, "lengths": lengths}
        self._tell(order, b"".join([bundle, *personal]) if personal else bundle)
        for header, frame in self._collect(clients):
            if header["slot"] is None:
                yield Reply(**header["reply"]), frame
            else:
                ring = self._rings[header["worker"]]
                yield Reply(**header["reply"]), ring.view(header["slot"], header["length"])
                ring.free()

    def evaluate(self, bundle: bytes) -> Scores:
        """The sums of the newest public model over the whole test set."""
        return Scores.total(self._results("evaluate", chunks(self._task), bundle))

    def evaluate_personal(self, bundle: bytes) -> list[Scores]:
        """Every client's sums over its holdout, with its personal model and the newest public part."""
        return self._results("evaluate_personal", self._task.clients, bundle)

    def _results(self, what: str, count: int, bundle: bytes) -> list[Scores]:
        if self._worker is not None:
            self._worker.receive(bundle)
            return [getattr(self._worker, what)(i) for i in range(count)]
        self._tell({"do": what, "count": count}, bundle)
        return [Scores(*header["result"]) for header, _ in self._collect(range(count))]

    def settle(self, number: int, failed: list[int], horizon: int, saved: int) -> None:
        """End a round in every worker's store; returns when all have."""
        if self._worker is not None:
            self._worker.settle(number, failed, horizon, saved)
            return
        self._tell({"do": "settle", "round": number, "failed": failed, "horizon": horizon, "saved": saved})
        for _ in range(len(self._children)):
            self._take()

    def _tell(self, header: dict[str, Any], data: bytes = b"") -> None:
        self._next.value = 0
        posted = self._buffer.put(data) if data else None
        message = pack((header, data) if posted is None else (header | {"posted": posted}, b""))
        for pipe in self._children.pipes:
            try:
                pipe.send_bytes(message)
            except (BrokenPipeError, ConnectionResetError):
                while True:  # until what it said before its end is read, and its end
                    self._take()

    def _collect(self, expected: Sequence[int]) -> Iterator[Message]:
        """A message of each client or piece, in this order; returns when every worker says that it is done."""
        early: dict[int, Message] = {}
        wanted, working = deque(expected), len(self._children)
        while wanted or working:
            header, data = self._take()
            if "done" in header:
                working -= 1
            else:
                early[header["of"]] = (header, data)
            while wanted and wanted[0] in early:
                yield early.pop(wanted.popleft())

    def _take(self) -> Message:
        while not self._inbox:
            for ready, _ in self._heard.select():
                self._inbox.extend(self._children.hear(cast("Connection", ready.fileobj)))
        return checked(self._inbox.popleft())


def _serve(pipe: Connection, shared: Shared, arguments: Arguments, name: str) -> None:
    """A worker process: take orders until the order to stop."""
    worker = Worker(*arguments, name)
    with guarded(worker.device):  # the process ends afterwards: nothing in it needs its generators restored before
        while True:
            ((order, data),) = unpack(pipe.recv_bytes())
            if order["do"] == "stop":
                worker.close()
                return
            data = shared.buffer.read(order["posted"]) if "posted" in order else data
            _obey(worker, order, data, pipe, shared)
            pipe.send_bytes(pack(({"done": order["do"]}, b"")))


def _obey(worker: Worker, order: dict[str, Any], data: bytes, pipe: Connection, shared: Shared) -> None:
    if order["do"] == "settle":
        worker.settle(order["round"], order["failed"], order["horizon"], order["saved"])
        return
    public, *personal = _cut(data, order.get("lengths", [len(data)]))
    if order["do"] == "deliveries":
        worker.secure.set_deliveries(public, dict(zip(order["clients"], personal, strict=True)))
        return
    if order["do"] == "secure":
        for i in _draw(shared.counter, len(order["clients"])):
            client = order["clients"][i]
            found = worker.secure.message(order["step"], order["round"], client, public, personal[i])
            pipe.send_bytes(pack(({"of": client}, found)))
        return
    worker.receive(public)
    worker.set_bundles(dict(zip(order.get("clients", []), personal, strict=False)))
    if order["do"] == "round":
        worker.expect(order["clients"])
        left = (order["clients"][i] for i in _draw(shared.counter, len(order["clients"])))
        while messages := [_post(*done, shared.ring, worker.number) for done in worker.play(order["round"], left)]:
            pipe.send_bytes(pack(*messages))
    else:
        evaluate = worker.evaluate_personal if order["do"] == "evaluate_personal" else worker.evaluate
        for i in _draw(shared.counter, order["count"]):
            pipe.send_bytes(pack(({"of": i, "result": evaluate(i)}, b"")))


def _post(reply: Reply, pieces: Sequence[bytes | memoryview], ring: SharedRing, number: int) -> Message:
    """Put a frame where the server will look; in the message itself if it does not fit there."""
    slot = ring.put(pieces) if pieces else None
    header = {"of": reply.client, "reply": vars(reply), "slot": slot, "worker": number}
    return header | {"length": sum(map(len, pieces))}, b"" if slot is not None else b"".join(pieces)


def _joined(pieces: Sequence[bytes | memoryview]) -> memoryview:
    """A frame in memory that may be written to, so that its reader need not copy it."""
    whole = pieces[0] if len(pieces) == 1 else None
    return whole if isinstance(whole, memoryview) else memoryview(bytearray().join(pieces))


def _cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    return [data[end - n : end] for n, end in zip(lengths, accumulate(lengths), strict=True)]


def _draw(counter: Any, limit: int) -> Iterator[int]:
    while True:
        with counter.get_lock():
            i = counter.value
            counter.value = i + 1
        if i >= limit:
            return
        yield i
