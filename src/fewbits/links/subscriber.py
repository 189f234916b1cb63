"""Subscriber: the receiving end of a broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fewbits.codecs import same
from fewbits.errors import DesyncError, WireError
from fewbits.links.bundle import lone_ack, unpack
from fewbits.links.downlink import Downlink, Part, value_of
from fewbits.links.finite import named
from fewbits.links.identity import OTHER, PATCH, SEED, codec_hash
from fewbits.links.patch import read_patch
from fewbits.links.personal_updates import PersonalUpdates
from fewbits.links.receiver import Receiver
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.shared_init import Build, read_seed
from fewbits.links.subscription import Subscription
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitWriter, Frame, Header


class Subscriber(Subscription):
    """Take a broadcast's bundles; hold the public value, or one near it that only this end and the server know.

    A bundle begins at the version that our last frame acknowledged. With personal updates the server may not have heard
    that the last bundle came; its next one then begins where that one began. So the value that the last bundle began
    with is kept, until a bundle begins with the newest value.

    A bundle that ends before the version held is refused. After the server was restored from an older checkpoint,
    `load(None)` forgets what is held, and the server's first bundle for a new receiver is taken.

    Args:
        codec: the server's.
        spec: the server's: names, shapes and dtypes of the value.
        build: makes version 1 from a key, for servers that send a seed instead of it.

    Raises:
        WireError: `receive` was given a bundle that is damaged, or of another codec.
        DesyncError: the bundle does not lead on from what is held, or leads back. Nothing has changed.

    >>> import torch, fewbits as fb
    >>> x = torch.arange(3.0)
    >>> codec, spec = fb.Delta(fb.Raw()), fb.Spec.of(x)
    >>> server, client = fb.links.Broadcast(codec, spec, fb.Key(0)), fb.links.Subscriber(codec, spec)
    >>> server.publish(x)
    >>> first = server.bundle(client.version)
    >>> client.receive(first), client.version
    (tensor([0., 1., 2.]), 1)
    >>> server.publish(x + 1)
    >>> client.receive(server.bundle(client.version)), client.version
    (tensor([1., 2., 3.]), 2)
    >>> client.receive(first)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fewbits.errors.DesyncError: the bundle ends at version 1, we hold version 2: it is late or was sent again; ...
    """

    def __init__(self, codec: Part | Downlink, spec: Spec | TreeSpec, build: Build | None = None) -> None:
        down = Downlink.of(codec)
        self._codec, self._spec, self._build = down.public, spec, build
        self._receiver = Receiver(self._codec, spec)
        self._updates = None if down.personal is None else PersonalUpdates(down.personal, spec)
        self._none = ReceiverState(None, 0, self._receiver.history, self._receiver.state)
        self._now, self._before = self._none, self._none
        self._steps: dict[int, Callable[[Frame, bytes, ReceiverState], ReceiverState]] = {
            codec_hash(self._codec, spec, SEED): self._seed,
            codec_hash(self._codec, spec, PATCH): self._patch,
            self._receiver.hash: self._public,
        }
        if self._updates is not None:
            self._steps[self._updates.hash] = self._difference
        # Of a stateless public codec: the frame with the value held, and the one that the present bundle leads to.
        self._latest, self._tried = b"", b""
        self._latest_before = b""

    @property
    def value(self) -> Any:
        return self._now.value

    @property
    def version(self) -> int:
        return self._now.version

    @property
    def personal(self) -> bool:
        return self._now.personal

    def receive(self, bundle: bytes) -> Any:
        """Take a bundle, and return the value after it; frames whose value is already held are passed over.

        On errors nothing changes. WireError: damaged, or of another codec. DesyncError: it does not lead on from here.
        """
        self.ack = None
        ack = lone_ack(bundle)
        if ack is not None:
            if self.value is None:
                raise DesyncError("a first bundle must hold the public value; this one is empty")
            self.ack = ack
            return self.value
        frames = unpack(bundle)
        start = self._now
        try:
            now, ack = self._follow(frames, start)
        except DesyncError:
            if self._updates is None or self._before is start:
                raise
            start = self._before
            now, ack = self._follow(frames, start)
        if not self._has(now):  # else the bundle came again, and the server may still begin where it began
            self._latest_before = self._latest if start is self._now else self._latest_before
            self._now, self._before = now, start if self._updates is not None else self._none
            self._latest = self._tried
        self.ack = ack
        return self.value

    def _has(self, state: ReceiverState) -> bool:
        now = self._now
        if (state.version, state.history) != (now.version, now.history):
            return False
        # Version 1 has the same history whatever its value, so the values decide.
        return state is now or same(named(state.value), named(now.value))

    def _follow(self, frames: Sequence[bytes], state: ReceiverState) -> tuple[ReceiverState, int]:
        """(what is held after these frames, the acknowledgement that the last one carries)."""
        latest = ack = 0
        self._tried = self._latest
        for data in frames:
            frame = Frame.parse(data)
            step = self._steps.get(frame.header.codec)
            if step is None:
                raise WireError(f"frame is of another codec or Spec: its hash is {frame.header.codec:04X}. {OTHER}")
            state = step(frame, data, state)
            latest, ack = frame.header.sequence + (step == self._public and not frame.header.snapshot), frame.header.ack
        if not state.version:
            raise WireError("the bundle leads to version 0; versions count from 1")
        # A snapshot, a seed and a difference from zeros need nothing before them, so any old one would lead back.
        if latest < max(self.version, state.version):
            raise DesyncError(
                f"the bundle ends at version {latest}, we hold version {self.version}: it is late or was sent again; "
                "if the server was restored from an older checkpoint, forget what is held by load(None)"
            )
        return state, ack

    def _seed(self, frame: Frame, data: bytes, state: ReceiverState) -> ReceiverState:
        """Version 1, made here."""
        if state.version and not state.personal:
            return state
        value = read_seed(frame, self._spec, self._build)
        return ReceiverState(value, 1, frame.header.history, self._codec.start(value, self._spec))

    def _patch(self, frame: Frame, data: bytes, state: ReceiverState) -> ReceiverState:
        if frame.header.sequence <= state.version and not state.personal:
            return state
        return read_patch(frame, self._codec, self._spec, state)

    def _difference(self, frame: Frame, data: bytes, state: ReceiverState) -> ReceiverState:
        assert self._updates is not None
        if frame.header.snapshot:
            raise WireError("this frame is a stored personal value; it has no place in a bundle")
        return self._updates.decode(frame, state)

    def _public(self, frame: Frame, data: bytes, state: ReceiverState) -> ReceiverState:
        """An entry of the log, or a snapshot."""
        header, receiver = frame.header, self._receiver
        if header.snapshot:
            if self._codec.stateless:
                raise WireError(f"a snapshot came, but {self._codec!r} has no state")
            receiver.adopt(data)
            value = value_of(self._codec, receiver.state, self._spec)
            return ReceiverState(value, receiver.expects, receiver.history, receiver.state)
        if header.sequence < state.version and not state.personal:
            if header.sequence + 1 == state.version > 1 and receiver.after(frame) != state.history:
                raise DesyncError(
                    f"another version {state.version} than the one held came: the server was restored from an older "
                    "checkpoint and went on; forget what is held by load(None)"
                )
            return state
        if state.personal and not header.key:
            raise DesyncError(
                f"an entry leads on from public version {header.sequence}; we hold a personal value of version "
                f"{state.version}"
            )
        receiver.expects, receiver.history, receiver.state = state.version, state.history, state.state
        value = receiver.receive(data)
        if self._codec.stateless:
            self._tried = data
        return ReceiverState(value, receiver.expects, receiver.history, receiver.state)

    def dump(self) -> bytes:
        return self._dumped(self._now, self._latest)

    def dump_before(self) -> bytes:
        known = self._updates is not None and self._before.version > 0
        return self._dumped(self._before, self._latest_before) if known else b""

    def _dumped(self, state: ReceiverState, latest: bytes) -> bytes:
        if state.personal:
            assert self._updates is not None
            return self._updates.store(state)
        if self._codec.stateless:
            return latest
        out = BitWriter()
        self._codec.write_state(state.state, self._spec, out)
        header = Header(self._receiver.hash, state.version, state.history, snapshot=True)
        return bytes(Frame(header, out.finish()))

    def load(self, data: bytes | None) -> None:
        self._before, self._latest_before, self.ack = self._none, b"", None
        self._now, self._latest = self._loaded(data) if data else (self._none, b"")

    def load_before(self, data: bytes) -> None:
        if data:
            self._before, self._latest_before = self._loaded(data)

    def _loaded(self, data: bytes) -> tuple[ReceiverState, bytes]:
        """Undo `_dumped`."""
        frame, self._tried = Frame.parse(data), b""
        if self._updates is not None and frame.header.codec == self._updates.hash:
            return self._updates.stored(frame), b""
        return self._public(frame, data, self._none), self._tried
