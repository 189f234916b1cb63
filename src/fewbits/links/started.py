"""The downlink of a value beside which receivers need a start, which never changes: theta0 of a subspace.

A bundle of first contact begins with the start: with a seed that makes it, or with its numbers. All bundles go on as
those of the value alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fewbits.codecs import Lift, Raw, chain, flat
from fewbits.errors import DesyncError, WireError
from fewbits.links.broadcast import Broadcast
from fewbits.links.bundle import lone_ack, pack, unpack
from fewbits.links.catch_up import CatchUp
from fewbits.links.downlink import Downlink, Part
from fewbits.links.finite import check_finite
from fewbits.links.identity import SEED, codec_hash
from fewbits.links.personal_updates import HeldState
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit, read_seed
from fewbits.links.subscriber import Subscriber
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame

START = "theta0"
_RAW: Lift = flat(chain(Raw()))
Build = Callable[[Key], Tensor]  # makes theta0 from a key  # (D,)


def _spec(size: int, space: str) -> TreeSpec:
    return TreeSpec(((START + space, Spec((size,))),))


def _named(build: Build, space: str) -> Callable[[Key], dict[str, Tensor]]:
    return lambda key: {START + space: build(key)}


class StartedBroadcast(Broadcast):
    """A Broadcast whose receivers get the start at first contact, besides the value.

    Args:
        codec: as for `Broadcast`.
        spec: as for `Broadcast`.
        key: as for `Broadcast`.
        start: theta0.  # (D,) float32
        keep: as for `Broadcast`.
        seed: what version 1 of the value is made from.
        start_seed: what theta0 is made from, as a SharedInit whose `build` gives it; None: it travels.
        space: text of the subspace, which both ends must have in common.

    Raises:
        LocalError: as for `Broadcast`, or theta0 is not finite.

    Example:
        >>> import torch
        >>> from fewbits import Key, Raw, Spec
        >>> server = StartedBroadcast(Raw(), Spec((2,)), Key(0), torch.ones(5))
        >>> server.publish(torch.zeros(2))
        >>> client = StartedSubscriber(Raw(), Spec((2,)), 5)
        >>> client.receive(server.bundle(None)), client.start
        (tensor([0., 0.]), tensor([1., 1., 1., 1., 1.]))
        >>> server.publish(torch.ones(2))
        >>> len(server.bundle(1))  # theta0 does not travel again
        26
    """

    def __init__(
        self,
        codec: Part | Downlink,
        spec: Spec | TreeSpec,
        key: Key,
        start: Tensor,
        keep: int = 64,
        seed: SharedInit | None = None,
        start_seed: SharedInit | None = None,
        space: str = "",
    ) -> None:
        super().__init__(codec, spec, key, keep, seed)
        check_finite({START: start}, "StartedBroadcast")
        self.start, self._start_spec = start, _spec(len(start), space)
        seeded = start_seed and SharedInit(start_seed.key, _named(start_seed.build, space))
        self._start_frame = seeded and seeded.frame({START + space: start}, _RAW, self._start_spec)

    @property
    def start_frame(self) -> bytes:
        """The frame that brings the start."""
        if self._start_frame is None:
            self._start_frame = Sender(_RAW, self._start_spec, Key(0)).send(
                {self._start_spec.entries[0][0]: self.start}
            )
        return self._start_frame

    @property
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        return [*super().kinds, *((kind, codec, spec) for codec, spec, kind in self._start_kinds)]

    @property
    def _start_kinds(self) -> list[tuple[Lift, TreeSpec, str]]:
        return [(_RAW, self._start_spec, kind) for kind in ("", SEED)]

    def frames(self, version: int | None) -> list[bytes]:
        return [*([] if version else [self.start_frame]), *super().frames(version)]

    def catch_up(self, before: HeldState) -> CatchUp:
        found = super().catch_up(before)
        return found if before != HeldState() else found._replace(frames=(self.start_frame, *found.frames))

    def dump(self) -> list[bytes]:
        return [self.start_frame, *super().dump()]

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        """Become what was dumped, for the `start` of then."""
        kinds = [codec_hash(*kind) for kind in self._start_kinds]
        if not dumped or Frame.parse(dumped[0]).header.codec not in kinds:
            raise WireError("these are not the frames of a dumped broadcast with a start")
        self._start_frame = dumped[0]
        return super().load(dumped[1:])


class StartedSubscriber(Subscriber):
    """The receiving end; `start` is theta0 after the first bundle.

    Args:
        codec: the server's.
        spec: the server's, of the value.
        size: D.
        build: makes version 1 of the value from a key.
        start_build: makes theta0 from a key.
        space: the server's.
    """

    def __init__(
        self,
        codec: Part | Downlink,
        spec: Spec | TreeSpec,
        size: int,
        build: Callable[[Key], Any] | None = None,
        start_build: Build | None = None,
        space: str = "",
    ) -> None:
        super().__init__(codec, spec, build)
        self._start_spec, self._start_build = _spec(size, space), start_build and _named(start_build, space)
        self._start_hashes = codec_hash(_RAW, self._start_spec), codec_hash(_RAW, self._start_spec, SEED)
        self.start: Tensor | None = None
        self._start_frame = b""

    def receive(self, bundle: bytes) -> Any:
        if lone_ack(bundle) is not None:
            return super().receive(bundle)
        frames = unpack(bundle)
        first = frames[0] if frames and Frame.parse(frames[0]).header.codec in self._start_hashes else b""
        if not first and self.start is None:
            ((name, leaf),) = self._start_spec
            raise DesyncError(
                f"a first bundle must begin with {name} of {leaf.numel} numbers, and this one does not: the server has "
                "another subspace, or takes this client for one that has it"
            )
        if not first:
            return super().receive(bundle)
        start = self.start if first == self._start_frame else self._read(first)
        value = super().receive(pack(frames[1:]))
        self.start, self._start_frame = start, first
        return value

    def _read(self, data: bytes) -> Tensor:
        frame = Frame.parse(data)
        if frame.header.codec == self._start_hashes[1]:
            return next(iter(read_seed(frame, self._start_spec, self._start_build).values()))
        return next(iter(Receiver(_RAW, self._start_spec).receive(data).values()))

    def dump(self) -> bytes:
        dumped = super().dump()
        return pack([self._start_frame, dumped]) if dumped else b""

    def load(self, data: bytes | None) -> None:
        if not data:
            super().load(None)
            self.start, self._start_frame = None, b""
            return
        frames = unpack(data)
        if len(frames) != 2:
            raise WireError("these bytes are no dumped end of a downlink with a start")
        start = self._read(frames[0])
        super().load(frames[1])
        self.start, self._start_frame = start, frames[0]
