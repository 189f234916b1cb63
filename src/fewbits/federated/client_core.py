"""ClientCore: one client's side of a federation, without input or output of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError
from fewbits.factor.coordinates import coordinates
from fewbits.federated.exchange import Build, Exchange
from fewbits.federated.local_round import LocalRound
from fewbits.learn import shared_values
from fewbits.learn.adaptive_steps import adaptive_rules, check_adaptive
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import SENT, IntrinsicSpace
from fewbits.learn.local import Correction
from fewbits.learn.method import Method
from fewbits.links import Sender, StartedSubscriber, Subscription
from fewbits.links.acknowledgement import frames_ahead
from fewbits.links.finite import check_finite
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.rng import Key

Pieces = list[bytes | memoryview]  # of one frame
Parts = Mapping[str, bytes]  # by name: up, state, down, down_before; one that is empty or missing: a new client's


class Trained(NamedTuple):
    """The outcome of one local training, before it is encoded."""

    update: Tensor  # (numel,) start - end of all that travels
    tree: dict[str, Tensor]  # views of it by wire name
    client_state: Tensor  # what never travels, after the training
    round: int  # the version of the public values that it began from: round t is played with version t
    epoch: int  # of the subspace's matrices
    steps: int  # local steps taken; 0: not said
    lr: float  # their size; 0: not said
    finite: bool = False  # whether the update is known to be


class ClientCore:
    """A client on every engine: bytes in, bytes out; in between the engine trains `model`.

        core.receive(bundle)              # take the public values
        core.acknowledge(core.down.ack)   # settle the last frame up
        core.start()                      # make the model this client's
        ...                               # train it, with `core.correction` before each step
        frame = b"".join(core.encode(core.finish(steps, lr)))

    It knows subspaces, private parts, objectives, differential privacy, masks and personal downlinks. Clients may use
    one core in turn: set `number`, `key`, `client_state` and the ends of each client first.
    """

    def __init__(
        self,
        model: FlatModel,
        method: Method,
        key: Key,
        number: int = 0,
        common: Key = Key(0),
        build: Build | None = None,
    ) -> None:
        """`key` is the client's secret and `number` its place among the clients; `common` is everybody's key."""
        self.model, self.method, self.key, self.number = model, method, key, number
        self.exchange, self.local = Exchange.of(model, method, common), LocalRound(model, method.objective)
        self.up, self.down = self.exchange.sender(key.fold("up")), self.exchange.subscriber(build)
        self._inside, self._start = coordinates(model.module), None  # the latter: theta0 as the server gave it
        self._build, self._adaptive = build, any(adaptive_rules(method.up))
        self._lent: dict[int, dict[str, Tensor]] = {}  # views of memory that callers lend, by its address
        self.redraw: int | None = None  # folded into the key of dp noise, when a version is answered once more
        self.new_state = self.local.new_state()
        self.client_state = self.new_state  # private parts and the objective's vectors
        self._next = self.new_state  # what it becomes when the pending frame has arrived
        self._new_up = self.up.dump()
        self._before: Callable[[], Parts] | None = None  # of before the last frame, where it was loaded
        self.public = torch.zeros(self.exchange.public.numel, device=model.whole.device)
        self._value: dict[str, Tensor] | None = None  # that `public` was made of
        self._version = 0  # of that value; 0: none came
        self._in_subspace: dict[str, float] = {}  # figures of the last update
        self.cut = 0  # numbers of the last update that were too large for masks

    def receive(self, bundle: bytes, down: Subscription | None = None) -> None:
        """Take the public values; nothing changes on errors. `down`: another end than this client's."""
        end = down or self.down
        self._take(end.receive(bundle), end)

    def _take(self, value: dict[str, Tensor], end: Subscription) -> None:
        self._version = end.version
        if value is self._value:
            return
        if isinstance(end, StartedSubscriber) and end.start is not None and self._inside is not None:
            theta0 = end.start[self.exchange.theta0]
            if theta0 is not self._start:
                self._inside.start, self._start = theta0, theta0
        self._value = value
        self.public = shared_values.vector(value).to(self.model.whole.device)

    def acknowledge(self, ack: int | None) -> None:
        """Settle the last frame by the count of frames that the server has accepted, modulo 2^16.

        The frame is committed or rolled back. When the count fits neither, the next frame is a key frame.
        """
        if ack is None:
            return
        if not self.up.pending and frames_ahead(ack, self.up.sequence):
            self._go_back()
        self._before = None
        if self.up.acknowledge(ack):
            self.client_state = self._next

    @property
    def unsettled(self) -> bool:
        """Whether nothing was heard of the last frame yet."""
        return self.up.pending or self._before is not None

    def rollback(self) -> None:
        """Take back the last frame, of which nothing was heard; another one replaces it."""
        if self.up.pending:
            self.up.rollback()
        else:
            self._go_back()
        self._before = None

    def _go_back(self) -> None:
        """Become the end of before the last frame, if it was loaded."""
        if self._before is not None:
            self.up, self.client_state = self.read_up(self._before())
            self._next = self.client_state

    def commit(self) -> None:
        """The server has the last frame."""
        self.up.commit()
        self.client_state = self._next

    def start(self, lent: bool = False) -> None:
        """Load the public values and the client state into the model. `lent`: others train on the model, too."""
        if lent:
            self.local.local_tensors.restore_all()
        self.local.load(self.public, self.client_state)
        self.method.start(self.model.module, self._version, self.number)

    @property
    def correction(self) -> Correction | None:
        """What the objective adds to gradients before each step; None: nothing."""
        return self.local.correction(self.public, self.client_state)

    def finish(self, steps: int = 0, lr: float = 0.0, out: Tensor | None = None) -> Trained:
        """The outcome of training; SCAFFOLD needs the number of steps and their size.

        out: (numel,) takes start - end; None: new memory.
        """
        vectors = self.method.objective.server_vectors
        if vectors and not (steps > 0 and lr > 0):
            raise LocalError(f"{self.method.objective!r} needs the steps taken and their lr; got {steps} and {lr}")
        if steps and self._adaptive:
            check_adaptive(self.method.up, self.number, steps, lr)
        update = torch.empty_like(self.public) if out is None else out
        state, finite = self.local.finish(self.public, self.client_state, steps, lr, update)
        tree = self._views(update, vectors, lent=out is not None)
        return Trained(update, tree, state, self.down.version, self.down.epoch, steps, lr, finite)

    def _views(self, update: Tensor, vectors: int, lent: bool) -> dict[str, Tensor]:
        """The parts of an update by wire name; made once for memory that is lent again and again."""
        if not lent:
            return shared_values.cut(update, self.model, vectors)
        place = update.data_ptr()  # nobody else's while the views live
        if place not in self._lent:
            self._lent[place] = shared_values.cut(update, self.model, vectors)
        return self._lent[place]

    def secure_end(self, round: int) -> ClientEnd:
        """A new end of a round's secure sum; its secrets follow from the client's key."""
        assert self.method.masking is not None
        return self.method.masking.client(self.number, round, self.key)

    def encode(self, trained: Trained, clients: tuple[int, ...] = (), secure: ClientEnd | None = None) -> Pieces:
        """The frame, in pieces to be joined; it is pending until `acknowledge` or `commit`.

        `clients`: the numbers of all clients of this round, for central dp; under masks they are the members
        of `secure`, this client's end of the round's secure sum. LocalError names a tensor that is not finite.
        """
        if trained.client_state.numel():
            check_finite({"client state": trained.client_state}, "a client's training")
        if self.method.masking is not None:
            self._check_secure(secure, trained.round)
        clients = clients if secure is None else secure.members
        self._check_clients(clients)
        sent = self._shortened(trained, len(clients))
        if self.method.masking is not None and secure is not None:
            self.cut = self.method.masking.cut(sent)
            sent = self.method.masking.hide(sent, secure, self.key.fold("field", trained.round))
        self.up.key, self._next = self.key.fold("up"), trained.client_state
        checked = trained.finite and sent is trained.tree  # of the exchange's own names and shapes
        return self.up.pieces(sent, trained.round % 2**16, self.exchange.of_round(trained.round), checked)

    def _shortened(self, trained: Trained, asked: int) -> dict[str, Tensor]:
        """The update as the server sums it: A^T of its parameters in a subspace; clipped, with noise, under dp."""
        sent = trained.tree if self.method.space is None else self._projected(self.method.space, trained)
        if self.method.privacy is None:
            return sent
        return pieces(self._noisy(shared_values.vector(sent), trained.round, asked), sent)

    def _projected(self, space: IntrinsicSpace, trained: Trained) -> dict[str, Tensor]:
        """A^T of the parameters' update, with the buffers' beside it."""
        vector = trained.update[: len(self.model.shared_params)].cpu()
        matrix = space.matrix(len(vector), trained.epoch, space.which(trained.round, self.number))
        s = matrix.project(vector)
        step = matrix.effective_step(trained.lr)
        self._in_subspace = {"isotropy": matrix.captured(vector, s), "effective_step": step}
        return {SENT: s} | {n: x.cpu() for n, x in trained.tree.items() if n.startswith(shared_values.BUFFER)}

    def _noisy(self, x: Tensor, round: int, asked: int) -> Tensor:
        assert self.method.privacy is not None
        again = () if self.redraw is None else ("again", self.redraw)
        return self.method.privacy.apply(x, self.key.fold("dp", round, *again), asked)

    def _check_clients(self, clients: tuple[int, ...]) -> None:
        """Parts of noise are made for exactly the round's clients."""
        if self.method.poisson and (self.number not in clients or len(set(clients)) != len(clients)):
            raise LocalError(
                f"{self.method.name}: needs the numbers of the round's clients, each once, and this is client "
                f"{self.number}; got {list(clients)}"
            )

    def _check_secure(self, secure: ClientEnd | None, round: int) -> None:
        """Masks are those of this round, and of the members of its secure sum."""
        if secure is None or secure.round != round or not secure.members:
            raise LocalError(
                f"{self.method.name}: needs this client's end of the secure sum of round {round}, after it opened the "
                "shares of the others"
            )

    def observe(self, trained: Trained) -> dict[str, float]:
        """Figures of the pending frame, such as `recycled`, and of the update in its subspace."""
        figures = self.up.observe() | self._in_subspace | ({"cut": float(self.cut)} if self.cut else {})
        if "floor" in figures and trained.lr:  # |g/tau|^2 sin^2, with g = update / lr accumulated over tau steps
            figures["floor"] /= (trained.lr * max(1, trained.steps)) ** 2
        return figures

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about tensors that training changed and that do not travel."""
        return tuple(self.local.local_tensors.remarks.values())

    def dump(self, arrived: bool = True) -> dict[str, bytes]:
        """All that must outlive the process, by part, for the case that an unsettled frame arrived, or did not."""
        if self._before is not None and not arrived:
            return dict(self._before())
        up, state = copy.copy(self.up), self.client_state
        if up.pending and arrived:
            up.commit()
            state = self._next
        elif up.pending:
            up.rollback()
        down, down_before = self.down.dump(), self.down.dump_before()
        return {"up": up.dump(), "state": self.local.dump(state), "down": down, "down_before": down_before}

    def load(self, parts: Parts, before: Callable[[], Parts] | None = None) -> None:
        """Become the client that was dumped; WireError when the bytes are damaged or another method's.

        `before` gives `up` and `state` of before the last frame, in case that the server never had it.
        """
        (up, state), down = self.read_up(parts), self.exchange.subscriber(self._build)
        down.load(parts["down"] or None)
        down.load_before(parts.get("down_before", b""))
        self.up, self.down, self.client_state, self._next, self._before = up, down, state, state, before
        if self.down.value is not None:
            self._take(self.down.value, self.down)

    def read_up(self, parts: Parts) -> tuple[Sender, Tensor]:
        """(the sending end, the client state) in dumped parts; nothing changes here."""
        state = self.local.load_state(parts["state"], len(self.new_state)) if parts["state"] else self.new_state
        up = self.exchange.sender(self.key.fold("up"))
        up.load(parts["up"] or self._new_up)
        return up, state.to(self.new_state.device)
