"""Broadcast of a model that moves in random subspaces: theta = theta_e + A_e s, with a new A_e in every epoch.

Numbers outside of the subspace, such as running statistics, follow theta: a frame of s holds how far they have moved.

Whoever knows theta_e needs only s. At an epoch's end theta_{e+1} = theta_e + A_e s, with that last s, the epoch's
final. So a receiver that missed versions gets the finals of the epochs it has not folded in, and the current s: what
the entries of all missed rounds would add up to. All ends take the same sums in the same order and hold the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewbits.codecs import Lift
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.links.bundle import lone_ack, pack, unpack
from fewbits.links.epoch_frames import FINAL, NOW, PLAIN, RAW, WHOLE, EpochFrames, EpochSpace
from fewbits.links.finite import check_finite
from fewbits.links.identity import OTHER, SEED, codec_hash
from fewbits.links.publisher import Publisher
from fewbits.links.shared_init import Build, SharedInit, check_seed, read_seed
from fewbits.links.subscription import Subscription
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame
from fewbits.wire.frame import HEADER_BYTES


class EpochBroadcast(Publisher):
    """The sending end. The first `publish` takes {WHOLE: theta_0}, each later one {NOW: s, PLAIN: x}, or {NOW: s}.

    A version's epoch comes from `space.epoch_of`. When the new version begins an epoch, the s that is published becomes
    the final of the epoch before, and the new version's s is zero.
    A frame's sequence number is the epoch for theta_e and finals, and the version - 1 for s.

    Args:
        space: says which epoch a version is in, and expands s to theta; see `EpochSpace`.
        spec: of all that travels, D numbers.
        key: the server's own.
        keep: finals in the history; receivers further behind get theta_e.
        seed: what {WHOLE: theta_0} is made from; None: theta_0 travels.
        plain: numbers at theta's end that are outside of the subspace. `publish` takes their values, x of shape
            (plain,); without them they stay. Frames hold x - theta_e's where that is not zero, so `value` has x but for
            one rounding.

    Raises:
        LocalError: seed is no SharedInit, or plain is out of range.
    """

    def __init__(
        self,
        space: EpochSpace,
        spec: Spec | TreeSpec,
        key: Key,
        keep: int = 1024,
        seed: SharedInit | None = None,
        plain: int = 0,
    ) -> None:
        check_seed(seed)
        self._space, self.keep, self._seed = space, keep, seed
        self._frames = EpochFrames(space, spec.numel, plain)
        self._senders = {name: self._frames.sender(name, key.fold(name)) for name in (WHOLE, FINAL, NOW)}
        self._version, self._epoch = 0, 0
        self._epochs: dict[int, int] = {}  # by version
        self._finals: dict[int, bytes] = {}  # by epoch
        self._base = torch.zeros(spec.numel)  # theta_e
        self._now_values = self._still()  # what the frame of s holds
        self._snapshot: bytes | None = None  # the frame of theta_e, once somebody needs it
        self._now = b""

    def _still(self) -> dict[str, Tensor]:
        """What a frame of s holds at the beginning of an epoch."""
        return {NOW: torch.zeros(self._space.numel)} | self._frames.away(self._base, None)

    @property
    def version(self) -> int:
        return self._version

    @property
    def epoch(self) -> int:
        """Of the newest version."""
        return self._epoch

    @property
    def current(self) -> dict[str, Tensor]:
        plain = self._frames.plain
        return {NOW: self._now_values[NOW]} | ({PLAIN: self.value[WHOLE][-plain:]} if plain else {})

    @property
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        seed = (SEED, RAW, self._senders[WHOLE].spec)
        return [*(("", sender.codec, sender.spec) for sender in self._senders.values()), seed]

    @property
    def snapshot(self) -> bytes:
        self._snapshot = self._snapshot or self._frame(WHOLE, {WHOLE: self._base}, self._epoch)
        return self._snapshot

    @property
    def snapshot_bytes(self) -> int:
        return HEADER_BYTES + 4 * self._frames.size  # without making a frame as large as the model

    @property
    def entry(self) -> bytes:
        if not self._now:
            raise LocalError("EpochBroadcast: nothing has been published")
        return self._now

    @property
    def longest_entry(self) -> bytes:
        """A frame of s with all plain numbers moved."""
        ones = {name: torch.ones_like(x) for name, x in self._still().items()}
        return self._frame(NOW, ones, 0) if self._frames.plain else self.entry

    def theta(self, s: Tensor) -> Tensor:
        """The newest theta with this s: theta_e + A_e s, with the plain numbers of now.  # (D,)"""
        return self._frames.moved(self._base, self._epoch, self._now_values | {NOW: s})

    def publish(self, values: Mapping[str, Tensor]) -> None:
        check_finite(values, "EpochBroadcast.publish")
        if self._version:
            plain = self._frames.away(self._base, values[PLAIN]) if PLAIN in values else {}
            now = self._now_values | {NOW: values[NOW].clone()} | plain
            whole = self._frames.moved(self._base, self._epoch, now)  # the next version's theta, by whichever terms
            check_finite({WHOLE: whole}, "EpochBroadcast.publish")
            now = self._enter(now, whole)
        else:
            self._base = values[WHOLE].clone()
            now, whole = self._still(), self._base
            if self._seed is not None:
                self.seed_frame = self._seed.frame({WHOLE: self._base}, RAW, self._senders[WHOLE].spec)
        self._now, self._now_values = self._frame(NOW, now, self._version), now
        self._version += 1
        self._epoch = self._space.epoch_of(self._version)
        self._epochs[self._version] = self._epoch
        if whole is self._base:
            whole = self._frames.moved(self._base, self._epoch, now)
        self.value = {WHOLE: whole}

    def _enter(self, now: dict[str, Tensor], whole: Tensor) -> dict[str, Tensor]:
        """What the next version's frame of s holds; at an epoch's end zeros, and all is folded into theta_e."""
        if self._space.epoch_of(self._version + 1) == self._epoch:
            return now
        final = {FINAL if name == NOW else name: x for name, x in now.items()}
        self._finals[self._epoch] = self._frame(FINAL, final, self._epoch)
        self._finals.pop(self._epoch - self.keep, None)
        self._base, self._snapshot = whole, None
        return self._still()

    def frames(self, version: int | None) -> list[bytes]:
        """The frames for a receiver at `version` (None: new): finals and s, or theta_e and s, whichever is shorter.

        At first contact a seed stands for theta_0, and all finals follow it.
        """
        if not self._version:
            raise LocalError("EpochBroadcast: nothing has been published")
        if version == self._version:
            return []
        seed = [self.seed_frame] if self.seed_frame and not version else []
        began = 0 if seed else self._epochs.get(version or 0)
        finals = None if began is None else [self._finals.get(e) for e in range(began, self._epoch)]
        if finals is not None and None not in finals:
            known = [*seed, *(final for final in finals if final is not None)]
            if sum(map(len, known)) <= self.snapshot_bytes:
                return [*known, self._now]
        return [self.snapshot, self._now]

    def _bundled(self, version: int | None) -> list[bytes]:
        return self.frames(version) or [self._now]  # s travels to those who are up to date, too

    def _frame(self, name: str, values: Mapping[str, Tensor], number: int) -> bytes:
        sender = self._senders[name]
        sender.resync()
        sender.sequence = number
        frame = sender.send(values)
        sender.commit()
        return frame

    def dump(self) -> list[bytes]:
        """theta_e, s, then the finals and the seed's frame."""
        first = [self.seed_frame] if self.seed_frame else []
        return [self._frame(WHOLE, {WHOLE: self._base}, self._epoch), self._now, *self._finals.values(), *first]

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        theta, now, *rest = (Frame.parse(frame) for frame in dumped)
        version, epoch = now.header.sequence + 1, theta.header.sequence
        if epoch != self._space.epoch_of(version):
            raise WireError(f"version {version} is of epoch {self._space.epoch_of(version)}; theta is of epoch {epoch}")
        seed = codec_hash(RAW, self._senders[WHOLE].spec, SEED)
        finals = [frame for frame in rest if frame.header.codec != seed]
        if late := [final.header.sequence for final in finals if final.header.sequence >= epoch]:
            raise WireError(f"theta is of epoch {epoch}, and a final of epoch {late[0]} is not before it")
        self.seed_frame = dumped[-1] if len(finals) < len(rest) else None
        self._base = self._frames.read(WHOLE, dumped[0])[WHOLE]
        self._now_values = self._frames.read(NOW, dumped[1])
        self._epoch, self._version = epoch, version
        self._now, self._snapshot = dumped[1], None
        self.value = {WHOLE: self._frames.moved(self._base, self._epoch, self._now_values)}
        self._finals = {final.header.sequence: data for final, data in zip(finals, dumped[2:], strict=False)}
        self._epochs = {version: self._space.epoch_of(version) for version in range(1, self._version + 1)}
        return []


class _Theta(NamedTuple):
    """theta_e, and the frames that lead to it from nothing."""

    base: Tensor | None = None  # (D,)
    epoch: int = 0
    path: tuple[bytes, ...] = ()  # a frame of theta or a seed, then finals


class EpochSubscriber(Subscription):
    """The receiving end: folds finals into theta_e, holds theta.

    Args:
        space: the server's.
        spec: the server's.
        build: makes {WHOLE: theta_0} from a key, for a server with a SharedInit.
        plain: the server's.

    Example:
        >>> from fewbits.learn import IntrinsicSpace
        >>> space, spec = IntrinsicSpace(dim=4), Spec((10,))
        >>> server, client = EpochBroadcast(space, spec, Key(0)), EpochSubscriber(space, spec)
        >>> server.publish({WHOLE: torch.ones(10)})
        >>> client.receive(server.bundle(None)).keys()
        dict_keys(['theta_e'])
    """

    def __init__(self, space: EpochSpace, spec: Spec | TreeSpec, build: Build | None = None, plain: int = 0) -> None:
        self._build, self._frames = build, EpochFrames(space, spec.numel, plain)
        self._names = self._frames.names()
        self.load(None)

    @property
    def value(self) -> dict[str, Tensor] | None:
        return self._value

    @property
    def version(self) -> int:
        return self._version

    @property
    def epoch(self) -> int:
        return self._theta.epoch

    def dump(self) -> bytes:
        return pack([*self._theta.path, self._now]) if self._now else b""

    def load(self, data: bytes | None) -> None:
        self._theta, self._now = _Theta(), b""  # the latter: the frame of s
        self._value: dict[str, Tensor] | None = None
        self._version, self.ack = 0, None
        if data:
            self.receive(data)

    def receive(self, bundle: bytes) -> dict[str, Tensor]:
        ack = lone_ack(bundle)
        if ack is not None:
            if self._value is None:
                raise DesyncError("a first bundle must hold the public value; this one is empty")
            self.ack = ack
            return self._value
        theta, now, version, ack = self._theta, b"", self._version, 0
        for data in unpack(bundle):
            header = Frame.parse(data).header
            name, ack = self._names.get(header.codec), header.ack
            if name is None:
                raise WireError(f"frame is of another codec or Spec: its hash is {header.codec:04X}. {OTHER}")
            if name == NOW:
                now, version = data, header.sequence + 1
            else:
                theta = self._fold(theta, name, data, header.sequence)
        if theta.base is None or not now or version < self._version:
            raise DesyncError(f"the bundle leads from version {self._version} to {version}, without all that it takes")
        value = {WHOLE: self._frames.moved(theta.base, theta.epoch, self._frames.read(NOW, now))}
        self._theta, self._now, self._version, self._value, self.ack = theta, now, version, value, ack
        return value

    def _fold(self, theta: _Theta, name: str, data: bytes, number: int) -> _Theta:
        """theta_e after one more frame; what is already in it is passed over."""
        if name == SEED:
            if theta.base is not None:
                return theta
            return _Theta(read_seed(Frame.parse(data), self._frames.spec(WHOLE), self._build)[WHOLE], 0, (data,))
        if name == WHOLE:
            return _Theta(self._frames.read(WHOLE, data)[WHOLE], number, (data,))
        if theta.base is not None and number < theta.epoch:
            return theta
        if theta.base is None or number > theta.epoch:
            raise DesyncError(f"the final of epoch {theta.epoch} comes next; got that of epoch {number}")
        folded = self._frames.moved(theta.base, number, self._frames.read(FINAL, data))
        return _Theta(folded, number + 1, (*theta.path, data))
