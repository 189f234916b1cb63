"""Worker: plays clients, one at a time, in one thread of one process.

All up-to-date clients hold the same public model, bit for bit, because Broadcast guarantees it. So a worker decodes
each version once and lends it to the clients that it plays. It loads a client's end of the uplink from the StateStore
and stores the new state optimistically. `settle` rolls back the clients whose frame was rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from fewbits.engines.common.evaluation import score_or_say
from fewbits.engines.common.failed_turn import data_fault, sentence
from fewbits.engines.common.local_turn import train_locally
from fewbits.engines.common.schedule import NO_CAP
from fewbits.engines.common.task import Local, Task, evaluation_noise, training_guard
from fewbits.engines.simulation.frame_room import FrameRoom
from fewbits.engines.simulation.secure_worker import SecureWorker
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.federated import local_round
from fewbits.federated.client_core import ClientCore, Pieces, Trained
from fewbits.learn.batches import ClientDataError
from fewbits.learn.evaluation import BATCH, Scores
from fewbits.learn.examples import Examples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalReport, LocalSGD
from fewbits.learn.local_training import LocalTraining
from fewbits.learn.method import Method
from fewbits.learn.seeding import is_ours
from fewbits.links import StateStore, ends
from fewbits.rng import Key

UP = "client.up"  # a client's end of the uplink
DOWN = "client.held"  # a client's end of the downlink, where it has personal updates
OPTIMIZER = "client.optimizer"  # a client's optimizer, where its state stays with it
OF_RATE = ("floor", "effective_step")  # figures that are computed from SGD's learning rate
ALL = slice(0, NO_CAP)
NOTHING = nullcontext()
CHUNK = BATCH  # test examples per piece of an evaluation
BURST = 4  # clients that train before the first of them is encoded, where a server in another process waits for them
ALONE = 16  # the same in one process, where nobody waits
BURST_BYTES = 16 * 2**20  # of their updates; a larger model's training hides what a burst would save


@dataclass(frozen=True)
class Reply:
    """The outcome of one client in one round."""

    client: int
    weight: float = 0  # examples, or 1 under dp
    figures: dict[str, float] = field(default_factory=dict)  # loss, recycled, floor, isotropy, ...
    trouble: str = ""  # why there is no frame; "" when there is one
    raised: bool = False  # the user's model, loss or data raised; else `trouble` is an update that is not finite
    loss_note: str = ""  # what the mean loss of its steps leaves out
    remarks: Sequence[str] = ()  # sentences about tensors that training changed and that do not travel


class TrainedClient(NamedTuple):
    """A client that has trained and is not encoded yet."""

    client: int
    trained: Trained
    report: LocalReport
    down: bytes | None  # its end of the downlink, where it has personal updates
    room: FrameRoom  # where its update lies; a frame that is the update itself is whole there


class Worker:
    """Trains clients and evaluates pieces of the test set."""

    def __init__(
        self, task: Task, method: Method, key: Key, states: Path, device: str, name: str, most: int | None = None
    ) -> None:
        """`states` is the StateStore's folder, `name` this worker's file in it; training happens on `device`.

        most: clients of a burst; None: as few as other processes can wait for.
        """
        self.device = torch.device(device)
        task = task if self.device.type == "cpu" else task.on(self.device)
        self.task, self.method, self.key, self.number = task, method, key, int(name)
        self.model = FlatModel(duplicate(task.model).to(self.device))
        self._core = ClientCore(self.model, method, key, common=key, build=task.build)
        self._public = self._core.down  # of the public model, which is lent
        self._personal = self._core.exchange.down.personal is not None
        if self._personal:
            self._core.down = self._core.exchange.subscriber(task.build)  # lent to each client in turn
        self._bundles: Mapping[int, bytes] = {}
        self._clients: tuple[int, ...] = ()  # the round's clients
        self.secure = SecureWorker(self._core, key)  # under masks
        # Written anew in each burst, once the ends of the last one are stored: the sender is lent, and keeps nothing.
        size = len(self._core.public)
        self._rooms = [FrameRoom(size, self.device) for _ in range(burst(4 * size, most))]
        self._fresh = self._core.up  # of a client that sent nothing yet
        self._store = StateStore(states, writer=name, durable=False)
        self._draws = not is_ours(method.objective)  # others' objectives may draw; `LocalSGD` cannot see them

    def set_bundles(self, bundles: Mapping[int, bytes]) -> None:
        """The round's bundles by client, for personal downlinks; each is opened when its client is played."""
        self._bundles = bundles

    def receive(self, bundle: bytes) -> None:
        """Take the newest public model."""
        self._core.receive(bundle, self._public)

    @property
    def version(self) -> int:
        """Version of the public model held."""
        return self._public.version

    def expect(self, clients: Sequence[int]) -> None:
        """Begin a round of these clients; some of them will be played here."""
        self._clients = tuple(clients)
        self._store.fetch(clients, UP)

    def play(self, round: int, clients: Iterator[int]) -> Iterator[tuple[Reply, Pieces]]:
        """Play the next few clients, a burst of them: each one's outcome, and the pieces of its frame.

        All train before the first is encoded. Training empties the caches of other work, and the short work around it
        then takes ten times as long. In a row, only the first client pays that.
        """
        with training_guard(self.task, self.model):
            turns = [self.train(round, client, room) for room, client in zip(self._rooms, clients, strict=False)]
        for turn in turns:
            yield (turn, []) if isinstance(turn, Reply) else self.encode(round, turn)

    def train(self, round: int, client: int, room: FrameRoom) -> TrainedClient | Reply:
        """Train one client from what it holds; `room` takes start - end.

        A Reply: the turn failed. What the client stores stays as it was, and its next turn loads all anew.
        """
        task, core, local = self.task, self._core, self.task.local.at(round)
        if self._personal:
            with ends.stored(self._store, client, DOWN):
                core.down.load(self._store.get(client, DOWN))
            core.receive(self._bundles[client])
        self._load(client)
        key, state = self.key.fold("round", round, "client", client), _optimizer_state(task.local, self._store, client)
        with ends.stored(self._store, client, OPTIMIZER) if state else NOTHING:
            report = train_locally(task, self.model, client, round, key, core.correction, self._draws, state)
        if isinstance(report, str):
            return Reply(client, trouble=report, raised=True)
        trained = core.finish(report.steps, getattr(local, "lr", 0.0), room.update)
        return TrainedClient(client, trained, report, core.down.dump() if self._personal else None, room)

    def encode(self, round: int, one: TrainedClient) -> tuple[Reply, Pieces]:
        """Load the client's end, encode its update, and store the end as it is once the frame has arrived."""
        client, core, report = one.client, self._core, one.report
        core.up, before = ends.load(self._store, client, UP, self._fresh)
        core.number, core.key = client, self.key.fold("client", client)
        try:
            frame = core.encode(one.trained, self._clients, self.secure.masks(round, client))
        except LocalError as error:
            return Reply(client, trouble=f"{error}{_fault(self.task, client)}"), []
        figures = _figures(self.task.local, {"loss": report.loss} | core.observe(one.trained))
        core.commit()
        ends.save(self._store, client, UP, round, core.up.pieces_of_dump(), before)
        core.local.remember(self._store, client, round, core.client_state)
        for part, state in ((OPTIMIZER, report.optimizer_state), (DOWN, one.down)):
            if state:
                self._store.put(client, part, round, state)
        weight, remarks = self.method.weight(report.examples), [*core.remarks, *report.remarks]
        return Reply(client, weight, figures, "", False, report.loss_note, remarks), one.room.joined(frame)

    def _load(self, client: int) -> None:
        """Load the public values and the client's state into the model."""
        core = self._core
        core.number, core.client_state = client, core.local.recall(self._store, client, core.new_state)
        core.start(lent=True)

    def evaluate_personal(self, client: int) -> Scores:
        """The sums of this client's personal model over its holdout."""
        if client in self.task.unfit:
            return Scores(failure=self.task.unfit[client])
        self._load(client)
        try:
            examples = self.task.held_out(client)
        except ClientDataError as error:
            return Scores(failure=str(error))
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything
            return Scores(failure=sentence(error))
        return self._score(examples, ALL, "client", client)

    def evaluate(self, chunk: int) -> Scores:
        """The sums of the public model over one piece of the test set."""
        task = self.task
        assert task.test is not None
        rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        self._core.client_state = self._core.new_state
        self._core.start(lent=True)
        return self._score(task.test, rows, "chunk", chunk)

    def _score(self, examples: Examples, rows: slice, *what: str | int) -> Scores:
        with evaluation_noise(self.task, self.key, self.model, *what):
            return score_or_say(self.model, self.task, examples, rows)

    def settle(self, round: int, failed: list[int], horizon: int, saved: int) -> None:
        """End the round: roll back the clients whose frame was rejected, and commit the others."""
        ends.rollback(self._store, round, failed, UP)
        self._store.rollback(round, failed, local_round.PART)
        self._store.rollback(round, failed, DOWN)
        self._store.rollback(round, failed, OPTIMIZER)
        self._store.horizon, self._store.saved = horizon, saved
        self._store.commit()
        self._store.refresh()

    def close(self) -> None:
        """Close the store."""
        self._store.close()


def _optimizer_state(local: Local, store: StateStore, client: int) -> bytes:
    """Of a client's optimizer; b"": it begins, or its state does not stay."""
    stays = isinstance(local, LocalTraining) and local.keep_optimizer
    return (store.get(client, OPTIMIZER) or b"") if stays else b""


def _figures(local: Local, measured: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are finite numbers, and mean something for this local training."""
    unknown = () if isinstance(local, LocalSGD) else OF_RATE
    return {n: x for n, x in measured.items() if x is not None and math.isfinite(x) and n not in unknown}


def _fault(task: Task, client: int) -> str:
    """What of a client's tensors may be the reason for an update that is not finite."""
    return "" if task.x is None else data_fault(task.x, task.parts[client])


def chunks(task: Task) -> int:
    """Pieces of the test set."""
    return 0 if task.test is None else -(-len(task.test) // CHUNK)


def burst(update_bytes: int, most: int | None = None) -> int:
    """How many clients train before the first of them is encoded."""
    return max(1, min(most or BURST, BURST_BYTES // max(1, update_bytes)))
