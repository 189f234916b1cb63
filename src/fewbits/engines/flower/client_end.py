"""ClientEnd: one client of one run on its node's disk, around the same core as in every engine.

The newest ends are stored when a reply leaves, and those of before it stay. The next bundle says whether the reply
counted; if it did not, the client goes back to the version before.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from fewbits.engines.flower.layout import Layout
from fewbits.errors import DesyncError
from fewbits.federated.client_core import ClientCore, Parts
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import StateStore, ends
from fewbits.rng import Key

UP, DOWN, LAYOUT, STAYING, NAME = "client.up", "client.down", "client.layout", "client.kept", "client.name"


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
        model, key = FlatModel(self.layout.module()), self.key.fold("client", self.client)
        self.core = core = ClientCore(model, self.method, key, self.client, self.key)
        down = b"" if layout else self.store.get(self.client, DOWN) or b""
        core.load({"up": self._stored_up(), "down": down, "state": b""}, self._before)
        core.receive(bundle)
        self.store.put(self.client, DOWN, round, core.down.dump())
        core.start()
        return self.layout

    def reply(self, round: int, trained: dict[str, Tensor]) -> bytes:
        """The frame with start - end."""
        core = self.core
        core.acknowledge(core.down.ack or 0)
        self.store.horizon = self.store.newest(self.client, UP) or 0
        core.model.load(trained)
        frame = b"".join(core.encode(core.finish()))
        core.commit()
        ends.save(self.store, self.client, UP, round, core.up.dump(), ends.restore(self.store, self.client, UP))
        return frame

    def _stored_up(self) -> bytes:
        return ends.restore(self.store, self.client, UP) or b""

    def _before(self) -> Parts:
        """The last reply did not count: go back to what was stored before it."""
        newest = self.store.newest(self.client, UP)
        if newest is not None:
            ends.rollback(self.store, newest, [self.client], UP)
            self.store.rollback(newest, [self.client], STAYING)
        return {"up": self._stored_up(), "state": b""}

    @property
    def name(self) -> str:
        """Of the folder: drawn when it was made, so that a copy of a node is told from another node."""
        known = self.store.get(self.client, NAME)
        if known is None:
            known = secrets.token_hex(8).encode()
            self.store.put(self.client, NAME, 0, known)
        return known.decode()

    def staying(self) -> dict[str, Tensor]:
        """The arrays that never travel, as this client's last training that counted left them; none at first."""
        data = self.store.get(self.client, STAYING)
        return load(data) if data else {}

    def keep(self, round: int, arrays: dict[str, Tensor]) -> None:
        """Store them after a round."""
        if arrays:
            self.store.put(self.client, STAYING, round, save(arrays))

    def forget(self) -> None:
        """Give up the public model: the next bundle must hold all of it."""
        self.store.put(self.client, DOWN, self.store.newest(self.client, DOWN) or 0, b"")
