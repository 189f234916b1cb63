"""Broadcast of a model that moves in random subspaces: theta = theta_e + A_e s, with a new A_e in every epoch.

Whoever knows theta_e needs only s. At an epoch's end theta_{e+1} = theta_e + A_e s, with that last s, the epoch's
final; so a receiver that was away gets the finals of the epochs it has not folded in, and the current s: what the
entries of all missed rounds would add up to. All ends take the same sums in the same order and hold the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewbits.codecs import Lift, Raw, chain, flat
from fewbits.errors import DesyncError, WireError
from fewbits.links.bundle import pack, unpack, wrap
from fewbits.links.identity import SEED, codec_hash
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import Build, SharedInit, read_seed
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

    own = None  # nobody leaves the shared value here: s is all that a receiver needs

    def __init__(
        self,
        start: Tensor,
        numel: int,
        expand: Expand,
        key: Key,
        keep: int = 1024,
        epochs: Callable[[int], int] | None = None,
        seed: SharedInit | None = None,
    ) -> None:
        """`start`: theta_0, (D,); `numel`: of s; `keep`: finals in the log, receivers further behind get theta_e.

        `epochs` gives a version's epoch, for `load`; `seed`: what theta_0, under the name WHOLE, is made from.
        """
        self._expand, self.keep, self._epoch_of = expand, keep, epochs
        self.horizon: int | None = None  # as `Broadcast.horizon`; a checkpoint holds everything here
        self.seed_frame = None if seed is None else seed.frame({WHOLE: start}, _RAW, _spec(WHOLE, len(start)))
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
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        """Its kinds of frame, with what each is made with."""
        seed = (SEED, _RAW, self._senders[WHOLE].spec)
        return [*(("", sender.codec, sender.spec) for sender in self._senders.values()), seed]

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
        """The frames for a receiver at `version` (None: new): the shorter of finals and s, or theta_e and s.

        At first contact a seed stands for theta_0, and all finals follow it.
        """
        if version == self.version:
            return []
        seed = [self.seed_frame] if self.seed_frame and not version else []
        began = 0 if seed else self._epochs.get(version or 0)
        finals = None if began is None else [self._finals.get(e) for e in range(began, self.epoch)]
        if finals is not None and None not in finals:
            known = [*seed, *(final for final in finals if final is not None)]
            if sum(map(len, known)) <= 4 * len(self._base) + HEADER_BYTES:
                return [*known, self._now]
        self._whole = self._whole or self._frame(WHOLE, self._base, self.epoch)
        return [self._whole, self._now]

    def bundle(self, version: int | None, ack: int = 0) -> bytes:
        """As `Broadcast.bundle`."""
        return wrap(self.frames(version) or [self._now], ack)

    def _frame(self, name: str, x: Tensor, number: int) -> bytes:
        sender = self._senders[name]
        sender.resync()
        sender.sequence = number
        frame = sender.send({name: x})
        sender.commit()
        return frame

    def dump(self) -> list[bytes]:
        """theta_e, s, then the finals and the seed's frame, for a checkpoint."""
        first = [self.seed_frame] if self.seed_frame else []
        return [self._frame(WHOLE, self._base, self.epoch), self._now, *self._finals.values(), *first]

    def attach(self, folder: Path) -> list[str]:
        """As `Broadcast.attach`; nothing is kept there, since a checkpoint holds everything."""
        return []

    def sync(self) -> None:
        """As `Broadcast.sync`."""

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        """Become the broadcast that was dumped."""
        assert self._epoch_of is not None
        whole, now, *rest = (Frame.parse(frame) for frame in dumped)
        seed = codec_hash(_RAW, self._senders[WHOLE].spec, SEED)
        finals = [frame for frame in rest if frame.header.codec != seed]
        self.seed_frame = dumped[-1] if len(finals) < len(rest) else None
        self._base, self.s = self._read(WHOLE, dumped[0]), self._read(NOW, dumped[1])
        self.epoch, self.version = whole.header.sequence, now.header.sequence + 1
        self._now, self._whole = dumped[1], None
        self.value = {WHOLE: self._base + self._expand(self.epoch, self.s)}
        self._finals = {final.header.sequence: data for final, data in zip(finals, dumped[2:], strict=False)}
        self._epochs = {version: self._epoch_of(version) for version in range(1, self.version + 1)}
        return []

    def _read(self, name: str, frame: bytes) -> Tensor:
        sender = self._senders[name]
        return Receiver(_RAW, sender.spec).receive(frame)[name]


class EpochSubscriber:
    """The receiving end: folds finals, holds theta."""

    def __init__(self, size: int, numel: int, expand: Expand, build: Build | None = None) -> None:
        """`size`: D; `numel`: of s; `build` makes {WHOLE: theta_0} from a key."""
        self._expand = expand
        self._specs = {name: _spec(name, n) for name, n in ((WHOLE, size), (FINAL, numel), (NOW, numel))}
        self._names = {codec_hash(_RAW, spec): name for name, spec in self._specs.items()}
        self._build, self._seed = build, codec_hash(_RAW, self._specs[WHOLE], SEED)
        self._base: Tensor | None = None
        self.value: dict[str, Tensor] = {}
        self.epoch, self.version = 0, 0
        self.ack: int | None = None
        self._path: list[bytes] = []  # the frames that lead from nothing to the value held: theta_e and finals,
        self._now = b""  # then s

    def dump(self) -> bytes:
        """As `Subscriber.dump`."""
        return pack([*self._path, self._now])

    def load(self, data: bytes | None) -> None:
        """As `Subscriber.load`, of a new one."""
        if data:
            self.receive(data)

    def receive(self, bundle: bytes) -> dict[str, Tensor]:
        """theta after this bundle; what is here already is passed over.

        WireError or DesyncError, with nothing changed, when the bundle does not lead to its version.
        """
        base, epoch, now, version, ack = self._base, self.epoch, None, self.version, 0
        path, latest = self._path, b""
        for data in unpack(bundle):
            header = Frame.parse(data).header
            if header.codec == self._seed:
                if base is None:
                    base, ack = read_seed(Frame.parse(data), self._specs[WHOLE], self._build)[WHOLE], header.ack
                    path = [data]
                continue
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
