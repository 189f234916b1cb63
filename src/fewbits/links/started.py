"""The downlink of a value beside which receivers need a start, which never changes.

The start has theta0 of a subspace, and what constants are told apart from: buffers as they were at first. A bundle of
first contact begins with it: with a seed that makes it, or with its numbers. Then come the frames of the value, in
which `SinceStart` sends what is not as in the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Lift, Raw, SinceStart, chain, flat
from fewbits.codecs.flat_view import copied
from fewbits.codecs.lifts.lift import AnySpec, Group, entries
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.links.agreed import Agreed
from fewbits.links.broadcast import Broadcast
from fewbits.links.bundle import lone_ack, pack, unpack
from fewbits.links.catch_up import CatchUp
from fewbits.links.downlink import Downlink, Part
from fewbits.links.finite import check_finite, named
from fewbits.links.identity import SEED, codec_hash
from fewbits.links.personal_updates import HeldState
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit, read_seed
from fewbits.links.subscriber import Subscriber
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame

_RAW: Lift = flat(chain(Raw()))
Start = Mapping[str, Tensor]
Build = Callable[[Key], dict[str, Tensor]]  # makes the start from a key
FEW = 3  # names in a sentence


def since_start(codec: Lift, spec: AnySpec) -> list[tuple[str, Spec]]:
    """Names and Specs of the tensors of which the codec sends what is not as in the start."""
    named = entries(spec)
    return [named[i] for group in codec.groups(spec) if group.codec == SinceStart() for i in group.members]


class _StartFrames:
    """How the start travels, and what it means to the codec of the value."""

    def __init__(self, start: TreeSpec, codec: Lift, spec: AnySpec, build: Build | None = None) -> None:
        self.spec, self._codec, self._value_spec, self._build = start, codec, spec, build
        self.known = since_start(codec, spec)  # what the codec tells apart from the start
        missing = [name for name, leaf in self.known if (name, leaf) not in start.entries]
        if missing:
            raise LocalError(f"the start must have {missing[0]!r} as the value has it; got {self.words}")
        self._hashes = codec_hash(_RAW, start), codec_hash(_RAW, start, SEED)
        self.kinds: list[tuple[str, Lift, AnySpec]] = [(kind, _RAW, start) for kind in ("", SEED)]

    def begin(self, frames: Sequence[bytes]) -> bool:
        """Whether the first of these frames brings a start."""
        return bool(frames) and Frame.parse(frames[0]).header.codec in self._hashes

    def numbers(self, start: Start) -> bytes:
        """The frame that has all of the start."""
        return Sender(_RAW, self.spec, Key(0)).send(dict(start))

    def read(self, data: bytes) -> Start:
        """The start that a frame brings."""
        frame = Frame.parse(data)
        if frame.header.codec == self._hashes[1]:
            return read_seed(frame, self.spec, self._build)
        return Receiver(_RAW, self.spec).receive(data)

    def agreed(self, start: Start) -> Agreed | None:
        """What the ends of the value's link begin with; None: they need no start."""
        if not self.known:
            return None
        named = entries(self._value_spec)

        def state(group: Group) -> Any:
            if group.codec != SinceStart():
                return group.codec.init(group.spec)
            pieces = [start[named[i][0]].reshape(-1).to(group.spec.torch_dtype) for i in group.members]
            return group.codec.start(torch.cat(pieces), group.spec)

        states = tuple(state(group) for group in self._codec.groups(self._value_spec))
        return Agreed.of(self._codec, self._value_spec, states)

    @property
    def words(self) -> str:
        """What the start is, for a sentence."""
        names = [name for name, _ in self.spec]
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        return f"{', '.join(names[:FEW])}{more} ({self.spec.numel:,} numbers)"


class StartedBroadcast(Broadcast):
    """A Broadcast whose receivers get the start at first contact, besides the value.

    Args:
        codec: as for `Broadcast`.
        spec: as for `Broadcast`.
        key: as for `Broadcast`.
        start: all tensors of the value that go by `SinceStart`, as they are at first; and others, such as theta0.
        keep: as for `Broadcast`.
        seed: what version 1 of the value is made from.
        start_seed: what the start is made from, as a SharedInit whose `build` gives it; None: it travels.

    Raises:
        LocalError: as for `Broadcast`; or the start is not finite, or has not all that `SinceStart` needs.

    Example:
        >>> import torch
        >>> from fewbits import Key, Raw, Spec
        >>> spec, start = Spec((2,)), {"theta0": torch.ones(5)}
        >>> server = StartedBroadcast(Raw(), spec, Key(0), start)
        >>> server.publish(torch.zeros(2))
        >>> client = StartedSubscriber(Raw(), spec, Spec.of(start))
        >>> client.receive(server.bundle(None)), client.start
        (tensor([0., 0.]), {'theta0': tensor([1., 1., 1., 1., 1.])})
        >>> server.publish(torch.ones(2))
        >>> len(server.bundle(1))  # theta0 does not travel again
        26
    """

    def __init__(
        self,
        codec: Part | Downlink,
        spec: Spec | TreeSpec,
        key: Key,
        start: Start,
        keep: int = 64,
        seed: SharedInit | None = None,
        start_seed: SharedInit | None = None,
    ) -> None:
        super().__init__(codec, spec, key, keep, seed)
        check_finite(start, "StartedBroadcast")
        start = copied(start)
        described = Spec.of(start)
        assert isinstance(described, TreeSpec)
        self._frames = _StartFrames(described, self.codec, spec)
        self._start_seed = start_seed and start_seed.frame(start, _RAW, described)
        self._numbers = b""  # the frame of the start in full, once a receiver needs it
        self._begin(start)

    def _begin(self, start: Start) -> None:
        self.start, self._sender.agreed = start, self._frames.agreed(start)

    @property
    def start_frame(self) -> bytes:
        """The frame that brings the start."""
        if self._start_seed is None:
            self._numbers = self._numbers or self._frames.numbers(self.start)
        return self._start_seed or self._numbers

    @property
    def longest_entry(self) -> bytes:
        if not self._frames.known:
            return self.entry
        sender = Sender(self.codec, self._sender.spec, Key(0))
        sender.agreed = self._sender.agreed
        sender.resync()
        changed = dict(named(self.value)) | {name: -self.start[name] for name, _ in self._frames.known}  # other bits
        return sender.send(changed if isinstance(sender.spec, TreeSpec) else changed["tensor"])

    @property
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        return [*super().kinds, *self._frames.kinds]

    def frames(self, version: int | None) -> list[bytes]:
        return [*([] if version else [self.start_frame]), *super().frames(version)]

    def catch_up(self, before: HeldState) -> CatchUp:
        found = super().catch_up(before)
        return found if before != HeldState() else found._replace(frames=(self.start_frame, *found.frames))

    def dump(self) -> list[bytes]:
        """The start in full and its seed, if it has one, then as of a `Broadcast`."""
        numbers = self._numbers or self._frames.numbers(self.start)
        return [numbers, *([self._start_seed] if self._start_seed else []), *super().dump()]

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        """Become what was dumped, with the start of then."""
        if not self._frames.begin(dumped):
            raise WireError("these are not the frames of a dumped broadcast with a start")
        start, rest = self._frames.read(dumped[0]), dumped[1:]
        self._numbers, self._start_seed = dumped[0], None
        if self._frames.begin(rest):
            self._start_seed, rest = rest[0], rest[1:]
        self._begin(start)
        return super().load(rest)


class StartedSubscriber(Subscriber):
    """The receiving end; `start` is there after the first bundle.

    Args:
        codec: the server's.
        spec: the server's, of the value.
        start: names, shapes and dtypes of the server's start.
        build: makes version 1 of the value from a key.
        start_build: makes the start from a key.
    """

    def __init__(
        self,
        codec: Part | Downlink,
        spec: Spec | TreeSpec,
        start: TreeSpec,
        build: Callable[[Key], Any] | None = None,
        start_build: Build | None = None,
    ) -> None:
        super().__init__(codec, spec, build)
        self._frames = _StartFrames(start, self._codec, spec, start_build)
        self.start: Start | None = None
        self._start_frame = b""

    def receive(self, bundle: bytes) -> Any:
        if lone_ack(bundle) is not None:
            return super().receive(bundle)
        frames = unpack(bundle)
        if self._frames.begin(frames):
            with self._started(frames[0]):
                return super().receive(pack(frames[1:]))
        if self.start is None:
            raise DesyncError(
                f"a first bundle must begin with {self._frames.words}, and this one does not: the server has another "
                "subspace or other buffers, or takes this client for one that has them"
            )
        return super().receive(bundle)

    @contextmanager
    def _started(self, frame: bytes) -> Iterator[None]:
        """Take frames with the start that this one brings; on errors the earlier start is back."""
        before = self.start, self._start_frame, self._receiver.agreed
        if frame != self._start_frame:
            self.start = self._frames.read(frame)
            self._start_frame, self._receiver.agreed = frame, self._frames.agreed(self.start)
        try:
            yield
        except BaseException:
            self.start, self._start_frame, self._receiver.agreed = before
            raise

    def dump(self) -> bytes:
        return pack([self._start_frame, super().dump()]) if self._start_frame else b""

    def load(self, data: bytes | None) -> None:
        if not data:
            super().load(None)
            self.start, self._start_frame, self._receiver.agreed = None, b"", None
            return
        frames = unpack(data)
        if len(frames) != 2 or not self._frames.begin(frames):
            raise WireError("these bytes are no dumped end of a downlink with a start")
        with self._started(frames[0]):
            super().load(frames[1] or None)
