"""ClientEnd: one client of one run on its node's disk, around the same core as in every engine.

The newest ends are stored when a reply leaves, and the version before stays. The next bundle says whether the reply
was accepted. If it was not, the client goes back to the version before.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors.torch import load, save
from torch import Tensor

from fewbits.engines.flower import carried
from fewbits.engines.flower.layout import Layout
from fewbits.errors import DesyncError, FewbitsError, LocalError
from fewbits.federated.client_core import ClientCore, Parts
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.links import StateStore, ends
from fewbits.rng import Key

UP, DOWN, LAYOUT, PRIVATE, NAME = "client.up", "client.down", "client.layout", "client.kept", "client.name"
CARRIED = "client.carried"
P = ParamSpec("P")
R = TypeVar("R")


def on_disk(method: Callable[Concatenate[ClientEnd, P], R]) -> Callable[Concatenate[ClientEnd, P], R]:
    """Tell a disk that fails in a sentence with the folder, so that the server hears of it."""

    @wraps(method)
    def checked(self: ClientEnd, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except (OSError, FewbitsError) as error:
            if isinstance(error, FewbitsError) and type(error) is not FewbitsError:
                raise  # not about the disk
            raise LocalError(f"the state folder {self.folder} cannot be used: {error}") from None

    return checked


class ClientEnd:
    """Use it within `contextlib.closing`, so that all is on disk before the reply leaves."""

    def __init__(self, folder: Path, client: int, method: Method, key: Key) -> None:
        """`folder` belongs to this run and client alone."""
        self.folder, self.client, self.method, self.key = folder, client, method, key
        self._open()

    @on_disk
    def _open(self) -> None:
        self.store = StateStore(self.folder)

    @on_disk
    def close(self) -> None:
        """Commit and close."""
        self.store.close()

    @on_disk
    def receive(self, round: int, bundle: bytes, layout: bytes | None) -> Layout:
        """Take the newest public model; DesyncError when bundle and stored state do not suffice."""
        known = layout or self.store.get(self.client, LAYOUT)
        if not known:
            raise DesyncError("the state is gone: there is no layout")
        if layout:
            self.store.put(self.client, LAYOUT, round, layout)
        # Every number in a frame takes two bytes or more of a first bundle.
        self.layout = Layout.load(known, len(bundle) + len(layout)) if layout else Layout.load(known)
        model, key = FlatModel(self.layout.module()), self.key.fold("client", self.client)
        self.core = core = ClientCore(model, self.method, key, self.client, self.key)
        down = b"" if layout else self.store.get(self.client, DOWN) or b""
        core.load({"up": self._stored_up(), "down": down, "state": b""}, self._before)
        core.receive(bundle)
        self.store.put(self.client, DOWN, round, core.down.dump())
        core.start()
        return self.layout

    @on_disk
    def carry(self, round: int, digest: str, part: bytes) -> ArrayRecord:
        """The whole model: what frames hold, and the arrays of `part`, or else those that came before."""
        if part:
            self.store.put(self.client, CARRIED, round, part)
        part = part or (digest and self.store.get(self.client, CARRIED)) or b""
        if digest != (carried.digest(part) if part else ""):
            raise DesyncError("the state is gone: the arrays that travel as they are differ from the server's")
        self.carried = self.layout.check_carried(carried.arrays(part))
        return self.layout.record(self.core.model.named(), self.carried)

    def changed(self, arrays: Mapping[str, Array]) -> bytes:
        """The arrays that travel as they are, after training; no bytes when all are as they came."""
        found = self.layout.carried(arrays, "reply")
        for name, x in found.items():
            if not np.isfinite(x).all() and np.isfinite(self.carried[name]).all():
                raise LocalError(f"reply: {name} is not finite; send finite arrays")
        same = all(x.dtype == self.carried[n].dtype and np.array_equal(x, self.carried[n]) for n, x in found.items())
        return b"" if same else carried.part(found, "reply")

    @on_disk
    def reply(self, round: int, trained: dict[str, Tensor], values: str = "none") -> bytes:
        """The frame with the client's update; with the trained values in place of differences for those arrays."""
        core = self.core
        core.acknowledge(core.down.ack or 0)
        self.store.horizon = self.store.newest(self.client, UP) or 0
        core.model.load(trained)
        sent = core.finish()
        if values != "none":
            ends_with = shared_values.values(core.model)
            exact = {n for n in sent.tree if values == "all" or n.startswith(shared_values.BUFFER)}
            sent = sent._replace(tree={n: ends_with[n] if n in exact else x for n, x in sent.tree.items()})
        frame = b"".join(core.encode(sent))
        core.commit()
        ends.save(self.store, self.client, UP, round, core.up.pieces_of_dump(), self._stored_up())
        return frame

    def _stored_up(self) -> bytes:
        return bytes(ends.restore(self.store, self.client, UP) or b"")

    def _before(self) -> Parts:
        """Roll back to what was stored before the last reply, which was not accepted."""
        newest = self.store.newest(self.client, UP)
        if newest is not None:
            ends.rollback(self.store, newest, [self.client], UP)
            self.store.rollback(newest, [self.client], PRIVATE)
        return {"up": self._stored_up(), "state": b""}

    @property
    @on_disk
    def name(self) -> str:
        """The folder's name, drawn at random when it was made; it tells a returning node from another one."""
        known = self.store.get(self.client, NAME)
        if known is None:
            known = secrets.token_hex(8).encode()
            self.store.put(self.client, NAME, 0, known)
        return known.decode()

    @on_disk
    def private_arrays(self) -> dict[str, Tensor]:
        """The arrays that never travel, as the last accepted training left them; none at first."""
        data = self.store.get(self.client, PRIVATE)
        return load(data) if data else {}

    @on_disk
    def store_private(self, round: int, arrays: dict[str, Tensor]) -> None:
        """Store the arrays that never travel, after a round."""
        if arrays:
            self.store.put(self.client, PRIVATE, round, save(arrays))

    @on_disk
    def forget(self) -> None:
        """Give up the public model: the next bundle must hold all of it."""
        self.store.put(self.client, DOWN, self.store.newest(self.client, DOWN) or 0, b"")


def size(folder: Path) -> int:
    """Bytes of all files in a folder and below; those that go meanwhile count nothing."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found += path.stat().st_size if path.is_file() else 0
    return found


def remove(folder: Path, client: int, method: Method, key: Key) -> int:
    """Remove a client's links and its public model; arrays that never travel stay. The bytes that were removed."""
    before = size(folder)
    with closing(ClientEnd(folder, client, method, key)) as end:
        private = end.private_arrays()
    shutil.rmtree(folder, ignore_errors=True)
    if private:
        with closing(ClientEnd(folder, client, method, key)) as end:
            end.store_private(0, private)
    else:
        with suppress(OSError):  # another client of this run is still there
            folder.parent.rmdir()
    return before - (size(folder) if private else 0)
