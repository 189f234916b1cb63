"""Broadcast of a model that moves in random subspaces: theta = theta_e + A_e s, with a new A_e in every epoch.

Whoever knows theta_e needs only s. At an epoch's end theta_{e+1} = theta_e + A_e s, with that last s, the epoch's
final; so a receiver that was away gets the finals of the epochs it has not folded in, and the current s: what the
entries of all missed rounds would add up to. All ends take the same sums in the same order and hold the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewbits.codecs import Lift, Raw, chain, flat
from fewbits.errors import DesyncError, WireError
from fewbits.link.broadcast import acknowledged, pack, unpack
from fewbits.link.identity import codec_hash
from fewbits.link.receiver import Receiver
from fewbits.link.sender import Sender
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame
from fewbits.wire.frame import HEADER_BYTES

Expand = Callable[[int, Tensor], Tensor]  # (epoch, s of (n,)) -> A_e s, (D,)
WHOLE, FINAL, NOW = "theta_e", "final", "s"  # what a frame holds, by the name of its tensor
_RAW: Lift = flat(chain(Raw()))


def _spec(name: str, numel: int) -> TreeSpec:
    return TreeSpec(((name, Spec((numel,))),))


class EpochBroadcast:
    """The sending end. A frame's number is the epoch for theta_e and finals, the version for s."""

    def __init__(self, start: Tensor, numel: int, expand: Expand, key: Key, keep: int = 1024) -> None:
        """`start`: theta_0, (D,); `numel`: of s; `keep`: finals in the log, receivers further behind get theta_e."""
        self._expand, self.keep = expand, keep
        self._senders = {
            name: Sender(_RAW, _spec(name, size), key.fold(name))
            for name, size in ((WHOLE, len(start)), (FINAL, numel), (NOW, numel))
        }
        self.epoch, self.version = 0, 0
        self._epochs: dict[int, int] = {}  # by version, as far back as finals are kept
        self._finals: dict[int, bytes] = {}  # by epoch
        self._base, self.s = start.clone(), torch.zeros(numel)
        self._whole: bytes | None = None  # the frame of theta_e, once somebody needs it
        self._now = b""
        self.value: dict[str, Tensor] = {}  # what every up-to-date receiver holds, bit for bit
        self.publish(self.s, 0)

    @property
    def codecs(self) -> list[tuple[Lift, Spec | TreeSpec]]:
        """What its frames are made with."""
        return [(sender.codec, sender.spec) for sender in self._senders.values()]

    def publish(self, s: Tensor, epoch: int) -> None:
        """Make s the next version; when `epoch` is a new one, s is the final of the one before, and s = 0 follows."""
        if epoch != self.epoch:
            self._finals[self.epoch] = self._frame(FINAL, s, self.epoch)
            self._finals.pop(self.epoch - self.keep, None)
            self._base = self._base + self._expand(self.epoch, s)
            self.epoch, self._whole, s = epoch, None, torch.zeros_like(s)
        self.version += 1
        self._epochs[self.version] = epoch
        self.s = s.clone()
        self._now = self._frame(NOW, self.s, self.version - 1)
        self.value = {WHOLE: self._base + self._expand(self.epoch, self.s)}

    def frames(self, version: int | None) -> list[bytes]:
        """The frames for a receiver at `version` (None: new): the shorter of finals and s, or theta_e and s."""
        if version == self.version:
            return []
        began = self._epochs.get(version) if version else None
        finals = [] if began is None else [self._finals.get(e) for e in range(began, self.epoch)]
        known = [final for final in finals if final is not None]
        whole = 4 * len(self._base)
        if began is None or len(known) < len(finals) or sum(map(len, known)) > whole + HEADER_BYTES:
            self._whole = self._whole or self._frame(WHOLE, self._base, self.epoch)
            return [self._whole, self._now]
        return [*known, self._now]

    def bundle(self, version: int | None, ack: int = 0) -> bytes:
        """As `Broadcast.bundle`."""
        return acknowledged(self.frames(version) or [self._now], ack)

    def _frame(self, name: str, x: Tensor, number: int) -> bytes:
        sender = self._senders[name]
        sender.resync()
        sender.sequence = number
        frame = sender.send({name: x})
        sender.commit()
        return frame

    def dump(self) -> list[bytes]:
        """theta_e, s, then the finals, for a checkpoint."""
        return [self._frame(WHOLE, self._base, self.epoch), self._now, *self._finals.values()]

    def load(self, dumped: Sequence[bytes], epochs: Callable[[int], int]) -> None:
        """Become the broadcast that was dumped; `epochs` gives a version's epoch."""
        whole, now, *finals = (Frame.parse(frame) for frame in dumped)
        self._base, self.s = self._read(WHOLE, dumped[0]), self._read(NOW, dumped[1])
        self.epoch, self.version = whole.header.sequence, now.header.sequence + 1
        self._now, self._whole = dumped[1], None
        self.value = {WHOLE: self._base + self._expand(self.epoch, self.s)}
        self._finals = {final.header.sequence: data for final, data in zip(finals, dumped[2:], strict=True)}
        self._epochs = {version: epochs(version) for version in range(1, self.version + 1)}

    def _read(self, name: str, frame: bytes) -> Tensor:
        sender = self._senders[name]
        return Receiver(_RAW, sender.spec).receive(frame)[name]


class EpochFollower:
    """The receiving end: folds finals, holds theta."""

    def __init__(self, size: int, numel: int, expand: Expand) -> None:
        """`size`: D; `numel`: of s."""
        self._expand = expand
        self._specs = {name: _spec(name, n) for name, n in ((WHOLE, size), (FINAL, numel), (NOW, numel))}
        self._names = {codec_hash(_RAW, spec): name for name, spec in self._specs.items()}
        self._base: Tensor | None = None
        self.value: dict[str, Tensor] = {}
        self.epoch, self.version = 0, 0
        self.ack: int | None = None
        self._path: list[bytes] = []  # the frames that lead from nothing to the value held: theta_e and finals,
        self._now = b""  # then s

    def dump(self) -> bytes:
        """As `Follower.dump`."""
        return pack([*self._path, self._now])

    def receive(self, bundle: bytes) -> dict[str, Tensor]:
        """theta after this bundle; what is here already is passed over.

        WireError or DesyncError, with nothing changed, when the bundle does not lead to its version.
        """
        base, epoch, now, version, ack = self._base, self.epoch, None, self.version, 0
        path, latest = self._path, b""
        for data in unpack(bundle):
            header = Frame.parse(data).header
            name = self._names.get(header.codec)
            if name is None:
                raise WireError(f"frame is of another codec or Spec: its hash is {header.codec:04X}")
            x = Receiver(_RAW, self._specs[name]).receive(data)[name]
            ack = header.ack
            if name == WHOLE:
                base, epoch, path = x, header.sequence, [data]
            elif name == FINAL:
                if base is not None and header.sequence < epoch:
                    continue  # folded already
                if base is None or header.sequence > epoch:
                    raise DesyncError(f"the final of epoch {epoch} comes next; got that of epoch {header.sequence}")
                base, epoch, path = base + self._expand(epoch, x), epoch + 1, [*path, data]
            else:
                now, version, latest = x, header.sequence + 1, data
        if base is None or now is None or version < self.version:
            raise DesyncError(f"the bundle leads from version {self.version} to {version}, without all that it takes")
        self._base, self.epoch, self.version, self.ack = base, epoch, version, ack
        self._path, self._now = path, latest
        self.value = {WHOLE: base + self._expand(epoch, now)}
        return self.value
