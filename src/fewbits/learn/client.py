"""Client: takes bytes, gives bytes; in between, whoever holds it trains its model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewbits.codecs import Codec, Transform, as_lift
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.learn import exchange, turn
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import Plain
from fewbits.links import Downlink, Sender, Subscriber
from fewbits.rng import Key


class Client:
    """One client of a federation.

    `receive` a bundle from the server: the model then holds the public weights; private ones (pFedPara's second halves)
    stay as this client's last training left them. Train it however you like, with `correction` before every step when
    there is an objective. `reply` gives the frame with start - end. The bundle also says whether the last reply
    arrived; if not, it is rolled back, and if the server has lost track, the next reply is a key frame.
    """

    def __init__(
        self,
        model: nn.Module,
        up: Codec | Transform | Coder,
        down: Codec | Transform | Coder | Downlink,
        key: Key,
        common: Key = Key(0),
        objective: Objective | None = None,
        build: Callable[[Key], nn.Module] | None = None,
    ) -> None:
        """`key` is this client's own; `up`, `down`, `common` and `objective` are the server's.

        `build` makes the initial model from a key, for servers that have a seed.
        """
        self.model = model
        self.objective: Objective = objective or Plain()
        self._flat = FlatModel(model)
        self._kept = turn.fresh(self._flat, self.objective)  # what never travels, after the last reply
        self._next: Tensor | None = None  # what it becomes when the reply has arrived
        spec = exchange.spec(self._flat, self.objective.extra)
        self.up = Sender(exchange.with_buffers(as_lift(up, "Client"), spec), spec, key.fold("up"), common)
        made = exchange.initial(build, self.objective.extra) if build is not None else None
        self.down = Subscriber(exchange.downlink(down, spec), spec, made)
        self._waiting = False  # a reply has not been acknowledged

    def receive(self, bundle: bytes) -> None:
        """Load the public weights; settle the last reply."""
        self._flat.attach()  # says so when the model was moved, or another Client holds it
        public = self.down.receive(bundle)
        if self.down.ack is not None:
            self._settle(self.down.ack)
        self._public = exchange.vector(public).to(self._flat.whole.device)
        turn.load(self._flat, self._public, self._kept)

    def _settle(self, ack: int) -> None:
        if self.up.acknowledge(ack):
            assert self._next is not None
            self._kept = self._next
        self._waiting = False

    @property
    def correction(self) -> Correction | None:
        """What the objective adds to gradients, for `LocalSGD.train(correct=...)`; None: nothing."""
        if self.down.value is None:
            raise LocalError("Client.correction: receive a bundle from the server first")
        return turn.correction(self._flat, self._public, self._kept, self.objective)

    def reply(self, steps: int = 0, lr: float = 0.0) -> bytes:
        """The frame with what training changed; LocalError names a tensor that is not finite.

        SCAFFOLD must know of how many steps of which size the training was.
        """
        if self.down.value is None:
            raise LocalError("Client.reply: receive a bundle from the server first")
        self._flat.attach()
        if self._waiting:  # nothing was heard of the last one
            self.up.rollback()
            self._waiting = False
        if self.objective.extra and not (steps > 0 and lr > 0):
            raise LocalError(f"Client.reply: {self.objective!r} needs the steps taken and lr; got {steps} and {lr}")
        update = torch.empty_like(self._public)
        self._next = turn.finish(self._flat, self._public, self._kept, self.objective, steps, lr, out=update)
        tree = exchange.cut(update.cpu(), self._flat, self.objective.extra)
        frame = self.up.send(tree, ack=self.down.version % 2**16)
        self._waiting = True
        return frame
