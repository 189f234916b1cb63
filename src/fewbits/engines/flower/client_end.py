"""ClientEnd: one client's ends of its links, out of its StateStore for one message and back into it.

What the engine `memory` does in a worker's RAM happens here on disk, with the same keys, and so the same bytes. A reply
is stored as if it had arrived; the acknowledgement in the next bundle says whether it did, and if not the client goes
back to the version before.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from fewbits.codecs import as_lift
from fewbits.engines.flower.layout import Layout
from fewbits.errors import DesyncError
from fewbits.learn import exchange
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import SENT
from fewbits.learn.method import Method
from fewbits.links import EpochSubscriber, Sender, StateStore, Subscriber, Subscription, ends
from fewbits.rng import Key

UP, DOWN, LAYOUT, KEPT, NAME = "client.up", "client.down", "client.layout", "client.kept", "client.name"


class ClientEnd:
    """Use it within `contextlib.closing`: what happened is on disk before the reply leaves."""

    def __init__(self, folder: Path, client: int, method: Method, key: Key) -> None:
        """`folder`: of this run and client alone."""
        self.store, self.client, self.method, self.key = StateStore(folder), client, method, key

    def close(self) -> None:
        """Commit and close."""
        self.store.close()

    def receive(self, round: int, bundle: bytes, layout: bytes | None) -> Layout:
        """Take the newest public model; DesyncError when it takes more than the bundle and what is stored."""
        known = layout or self.store.get(self.client, LAYOUT)
        if not known:
            raise DesyncError("the state is gone: there is no layout")
        if layout:
            self.store.put(self.client, LAYOUT, round, layout)
        # Every number that travels takes two bytes or more of a first bundle.
        self.layout = Layout.load(known, len(bundle) + len(layout)) if layout else Layout.load(known)
        self.model = model = FlatModel(self.layout.module())
        objective, space = self.method.objective, self.method.space
        self.spec = exchange.spec(model, objective.extra)
        self.follower: Subscription
        if space is None:
            self.follower = Subscriber(exchange.downlink(self.method.down, self.spec), self.spec)
        else:
            self.follower = EpochSubscriber(space, self.spec)
            self.spec = space.spec(model, objective)
        if (before := self.store.get(self.client, DOWN)) and not layout:
            self.follower.load(before)
        self.public = exchange.vector(self.follower.receive(bundle))
        self.store.put(self.client, DOWN, round, self.follower.dump())
        model.shared.copy_(self.public)
        return self.layout

    def reply(self, round: int, trained: dict[str, Tensor]) -> bytes:
        """The frame with start - end."""
        model, sender = self.model, self._sender()
        model.load(trained)
        update = self.public - model.shared
        sent: dict[str, Tensor] = exchange.cut(update, model)
        space = self.method.space
        if space is not None:
            matrix = space.matrix(len(update), self.follower.epoch, space.which(round, self.client))
            sent = {SENT: matrix.project(update)}
        frame = sender.send(sent, ack=self.follower.version, common=self.key.fold("round", round, "common"))
        sender.commit()
        ends.save(self.store, self.client, UP, round, sender.dump(), ends.restore(self.store, self.client, UP))
        return frame

    def _sender(self) -> Sender:
        """The end that the server acknowledges: the newest, or the one before, or one that begins with a key frame."""
        up = exchange.with_buffers(as_lift(self.method.up, "mod"), self.spec)
        sender = Sender(up, self.spec, self.key.fold("client", self.client, "up"))
        fresh, ack = sender.dump(), self.follower.ack or 0
        sender.load(ends.restore(self.store, self.client, UP) or fresh)
        newest = self.store.newest(self.client, UP)
        if newest is not None and ack != sender.sequence % 2**16:  # the last reply did not count
            ends.rollback(self.store, newest, [self.client], UP)
            self.store.rollback(newest, [self.client], KEPT)
            sender.load(ends.restore(self.store, self.client, UP) or fresh)
        sender.acknowledge(ack)
        self.store.horizon = self.store.newest(self.client, UP) or 0
        return sender

    @property
    def name(self) -> str:
        """Of the folder: drawn when it was made, so that a copy of a node is told from another node."""
        known = self.store.get(self.client, NAME)
        if known is None:
            known = secrets.token_hex(8).encode()
            self.store.put(self.client, NAME, 0, known)
        return known.decode()

    def kept(self) -> dict[str, Tensor]:
        """The arrays that never travel, as this client's last training that counted left them; none at first."""
        data = self.store.get(self.client, KEPT)
        return load(data) if data else {}

    def keep(self, round: int, arrays: dict[str, Tensor]) -> None:
        """Store them after a turn."""
        if arrays:
            self.store.put(self.client, KEPT, round, save(arrays))

    def forget(self) -> None:
        """Give up the public model: the next bundle must hold all of it."""
        self.store.put(self.client, DOWN, self.store.newest(self.client, DOWN) or 0, b"")
