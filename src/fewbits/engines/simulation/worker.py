"""Worker: plays clients, one at a time, in one thread of one process.

All up-to-date clients hold the same public model, bit for bit (that is what Broadcast guarantees), so a worker decodes
each version once and lends it to the clients it plays. A client's own end of the uplink is loaded from the
StateStore, used, and stored as if the frame had arrived; `settle` takes it back for clients whose frame did not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewbits.codecs import as_lift
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn import exchange, turn
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import SENT
from fewbits.learn.local import LocalReport, evaluate
from fewbits.learn.method import Method
from fewbits.learn.server import sampled
from fewbits.links import EpochSubscriber, Sender, StateStore, Subscriber, Subscription, ends
from fewbits.links.finite import check_finite
from fewbits.rng import Key

PART = "client.up"
HELD = "client.held"  # its end of the downlink, where that has an own part
CHUNK = 500  # test examples per piece of an evaluation
BURST = 4  # clients that train before the first of them is encoded
BURST_BYTES = 16 * 2**20  # of their updates; a larger model's training hides what a burst would save


@dataclass(frozen=True)
class Reply:
    """What came of one client in one round."""

    client: int
    weight: int = 0  # examples, or 1 under dp
    figures: dict[str, float] = field(default_factory=dict)  # loss, recycled, floor, isotropy, effective_step
    trouble: str = ""  # why there is no frame


class Update(NamedTuple):
    """Where start - end of one client goes."""

    vector: Tensor  # (numel,) all that travels
    tree: dict[str, Tensor]  # its parts by name


class Trained(NamedTuple):
    """A client that has trained and is not encoded yet."""

    client: int
    update: Update
    keep: Tensor  # what never travels
    report: LocalReport
    held: bytes | None  # its end of the downlink, where that has an own part


class Worker:
    """Trains clients and evaluates pieces of the test set."""

    def __init__(self, task: Task, method: Method, key: Key, states: Path, device: str, name: str) -> None:
        """`states` is the StateStore's folder, `name` this worker's file in it; training happens on `device`."""
        self.device = torch.device(device)
        task = task if self.device.type == "cpu" else task.on(self.device)
        self.task, self.key, self.number = task, key, int(name)
        self.method, self.objective = method, method.objective
        self.model = FlatModel(copy.deepcopy(task.model).to(self.device))
        buffers = dict(self.model.module.named_buffers())
        self._untravelled = {name: buffers[name].clone() for name in buffers if name not in self.model.buffer_names}
        self._newcomer = turn.fresh(self.model, self.objective)  # what a client keeps before its first turn
        self.space = method.space
        spec = exchange.spec(self.model, self.objective.extra)
        self._public = torch.zeros(spec.numel, device=self.device)  # what every up-to-date client holds, end to end
        self._follower: Subscription
        self._alone: Subscriber | None = None
        self._bundles: Mapping[int, bytes] = {}
        made = None if task.build is None else exchange.initial(task.build, self.objective.extra, self.space)
        if self.space is None:
            down = exchange.downlink(method.down, spec)
            self._follower = Subscriber(down, spec, made)
            self._alone = None if down.personal is None else Subscriber(down, spec, made)  # lent to each client in turn
        else:
            self._follower = EpochSubscriber(self.space, spec, made)
            spec = self.space.spec(self.model, self.objective)
        if method.masking is not None:
            spec = method.masking.spec(spec)
        # Written anew in each burst, once the ends of the last one are stored: the sender is lent, and keeps nothing.
        vectors = [torch.empty_like(self._public) for _ in range(burst(4 * len(self._public)))]
        self._updates = [Update(x, exchange.cut(x, self.model, self.objective.extra)) for x in vectors]
        self._sender = Sender(exchange.with_buffers(as_lift(method.up, "Worker"), spec), spec, key)
        self._fresh = self._sender.dump()
        self._store = StateStore(states, writer=name, durable=False)

    def set_bundles(self, bundles: Mapping[int, bytes]) -> None:
        """A round's bundles by client, where the downlink has an own part; opened when their clients are played."""
        self._bundles = bundles

    def receive(self, bundle: bytes) -> None:
        """Take the newest public model."""
        before = self._follower.value
        if self._follower.receive(bundle) is not before:
            self._public = exchange.vector(self._follower.value).to(self.device)

    @property
    def version(self) -> int:
        """Of the public model held."""
        return self._follower.version

    def expect(self, clients: Sequence[int]) -> None:
        """A round of these clients begins; some of them will be played here."""
        self._store.fetch(clients, PART)

    def play(self, round: int, clients: Iterator[int]) -> Iterator[tuple[Reply, list[bytes | memoryview]]]:
        """Play the next few clients, a burst of them: what came of each, and the pieces of its frame.

        All train before the first is encoded. Training leaves nothing of other work in the caches, and from there what
        has to be done around it, short as it is, takes ten times as long; in a row, only the first client pays that.
        """
        trained = [self.train(round, client, update) for update, client in zip(self._updates, clients, strict=False)]
        for one in trained:
            yield self.encode(round, one)

    def train(self, round: int, client: int, update: Update) -> Trained:
        """Train one client from what it holds; `update` takes start - end."""
        task, part = self.task, self.task.parts[client]
        start = self._received(client)
        own = self._load(client, start)
        key = self.key.fold("round", round, "client", client)
        correct = turn.correction(self.model, start, own, self.objective)
        report = task.local.train(
            self.model, task.x, task.y, part, key, loss=task.loss or cross_entropy, correct=correct
        )
        size = task.local.lr
        keep = turn.finish(self.model, start, own, self.objective, report.steps, size, out=update.vector)
        held = None if self._alone is None else self._alone.dump()
        return Trained(client, update, keep, report, held)

    def encode(self, round: int, trained: Trained) -> tuple[Reply, list[bytes | memoryview]]:
        """Load the client's end, encode what changed, store the end as it is when the frame arrives."""
        client, report, sender = trained.client, trained.report, self._sender
        before = ends.restore(self._store, client, PART)
        sender.load(before or self._fresh)
        sender.key = self.key.fold("client", client, "up")
        try:
            if len(trained.keep):
                check_finite({"what it keeps": trained.keep}, "a client's turn")
            sent, held = self._sent(round, trained)
            frame = sender.pieces(sent, ack=self.version, common=self.key.fold("round", round, "common"))
        except LocalError as error:
            return Reply(client, trouble=str(error)), []
        figures = {"loss": report.loss} | sender.observe() | held
        if "floor" in figures:  # |g/tau|^2 sin^2, with g = update / lr accumulated over tau steps
            figures["floor"] /= (self.task.local.lr * max(1, report.steps)) ** 2
        sender.commit()
        ends.save(self._store, client, PART, round, sender.dump(), before)
        turn.remember(self._store, client, round, self.model, self.objective, trained.keep)
        if trained.held is not None:
            self._store.put(client, HELD, round, trained.held)
        return Reply(client, self.method.weight(report.examples), figures), frame

    def _received(self, client: int) -> Tensor:
        """What this client holds: the public model, or what its own bundle made of what it held before."""
        if self._alone is None:
            return self._public
        self._alone.load(self._store.get(client, HELD))
        return exchange.vector(self._alone.receive(self._bundles[client])).to(self.device)

    def _sent(self, round: int, trained: Trained) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The update as it travels, as it is or A^T of it; and figures of what the subspace holds of it."""
        client, (vector, tree) = trained.client, trained.update
        if self.space is None:
            if self.method.protection is not None:
                vector.copy_(self._protected(vector, round, client))
            return self._hidden(tree, round, client), {}
        update = vector.cpu()
        matrix = self.space.matrix(len(update), self._follower.epoch, self.space.which(round, client))
        s = matrix.project(update)
        return self._hidden({SENT: self._protected(s, round, client)}, round, client), {
            "isotropy": matrix.captured(update, s),
            "effective_step": matrix.effective_step(self.task.local.lr),
        }

    def _protected(self, x: Tensor, round: int, client: int) -> Tensor:
        """All that is about to leave the client, with its own noise under dp; in a subspace that is s."""
        protection = self.method.protection
        return x if protection is None else protection.apply(x, self.key.fold("client", client, "dp", round))

    def _hidden(self, tree: dict[str, Tensor], round: int, client: int) -> dict[str, Tensor]:
        """The same under masks, where the method has them: they cancel over the round's clients, whom the key tells."""
        masking = self.method.masking
        if masking is None:
            return tree
        clients = sampled(self.key.fold("server"), round - 1, len(self.task.parts), masking.clients)
        private, pairs = self.key.fold("client", client, "field", round), self.key.fold("round", round, "pair")
        return masking.hide(exchange.vector(tree).cpu(), client, clients, private, pairs)

    def _load(self, client: int, start: Tensor) -> Tensor:
        """Load what this client received and what it keeps, which is returned."""
        own = turn.recall(self._store, client, self.model, self.objective, self._newcomer).to(self.device)
        turn.load(self.model, start, own)
        for name, buffer in self._untravelled.items():  # counters of batches: no client may see another's
            self.model.module.get_buffer(name).copy_(buffer)
        return own

    def evaluate_own(self, client: int) -> tuple[int, float, float]:
        """(examples, accuracy, mean loss) of this client's own model on its own held-out examples."""
        task, rows = self.task, torch.from_numpy(self.task.held[client]).to(self.device)
        self._load(client, self._public)
        x, y = task.x.index_select(0, rows), task.y.index_select(0, rows)
        return len(rows), *evaluate(self.model, x, y, loss=task.loss or cross_entropy)

    def evaluate(self, chunk: int) -> tuple[int, float, float]:
        """(examples, accuracy, mean loss) of the public model on one piece of the test set."""
        task = self.task
        assert task.test_x is not None and task.test_y is not None
        rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        turn.load(self.model, self._public, self._newcomer)
        x, y = task.test_x[rows], task.test_y[rows]
        accuracy, loss = evaluate(self.model, x, y, loss=task.loss or cross_entropy)
        return len(y), accuracy, loss

    def settle(self, round: int, failed: list[int], horizon: int, saved: int) -> None:
        """The round is over: take back the ends whose frames did not count, make the others durable."""
        ends.rollback(self._store, round, failed, PART)
        self._store.rollback(round, failed, turn.KEPT)
        self._store.rollback(round, failed, HELD)
        self._store.horizon, self._store.saved = horizon, saved
        self._store.commit()
        self._store.refresh()

    def close(self) -> None:
        """Close the store."""
        self._store.close()


def chunks(task: Task) -> int:
    """Pieces of the test set."""
    return 0 if task.test_y is None else -(-len(task.test_y) // CHUNK)


def burst(update_bytes: int) -> int:
    """How many clients train before the first of them is encoded."""
    return max(1, min(BURST, BURST_BYTES // max(1, update_bytes)))
