"""Broadcast: one sender, many receivers, some of whom were away.

The server's history is a log of encoded entries with versions. A receiver gets the shortest, by real length, of what
leads from what it holds to the newest version: entries, a patch, a snapshot, a seed before them at first contact, or a
lossy difference for this receiver alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewbits.codecs import Lift
from fewbits.codecs.flat_view import copied
from fewbits.errors import LocalError, WireError
from fewbits.links.bundle import wrap, wrapped_bytes
from fewbits.links.downlink import Downlink, Part, patchable, value_of, vectors
from fewbits.links.finite import named
from fewbits.links.identity import OWN, PATCH, SEED, codec_hash
from fewbits.links.log import Log
from fewbits.links.patch import Changes, write_patch
from fewbits.links.personal_updates import HeldState, PersonalUpdates
from fewbits.links.receiver import Receiver
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit, check_seed, digest
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame
from fewbits.wire.frame import HEADER_BYTES, MAX_SEQUENCE

REBUILT = 8  # old public values kept in memory, of those that receivers' own differences begin from


class CatchUp(NamedTuple):
    """One way to the newest version."""

    frames: tuple[bytes, ...]
    after: HeldState  # what the receiver holds then
    exact: bool = True  # whether that is the public value

    @property
    def cost(self) -> tuple[int, bool, int]:
        """Bytes of the bundle; among equals, exact ones, then fewer frames."""
        return wrapped_bytes([len(frame) for frame in self.frames]), not self.exact, len(self.frames)


Candidate = tuple[int, Callable[[], CatchUp]]  # (bytes that it takes at least, the route)


class Broadcast:
    """The sending end: publish values, then ask for the bundle that brings a receiver up to date.

    With a stateless codec every entry is the whole value and only the last one is ever needed. With `Delta(...)` the
    first value travels as a seed or a snapshot and the entries are differences; groups of a `route` that are stateless
    beside such a one are put under `LastValue`. Other stateful codecs are refused: their snapshot would not hold the value.
    """

    def __init__(
        self, codec: Part | Downlink, spec: Spec | TreeSpec, key: Key, keep: int = 64, seed: SharedInit | None = None
    ) -> None:
        """`keep`: versions back that entries, patches and differences lead from; receivers further behind start again.

        `seed`: what version 1 is made from, by receivers that have the same `build`.
        """
        down = Downlink.of(codec)
        check_seed(seed)
        self._sender = Sender(down.public, spec, key)
        self._own = None if down.own is None else PersonalUpdates(down.own, spec)
        self.keep, self._seed = keep, seed
        # Differences from old versions need values rebuilt: nearer bases cost memory and save time.
        self._every = keep if self._own is None else max(1, keep // 4)
        self._hash = codec_hash(self.codec, spec)
        self._log = Log(None, self._every, self._hash)
        self.seed_frame: bytes | None = None  # what stands for version 1 at first contact
        self._whole = b""  # the last entry, of a stateless codec
        self._changes: Changes | None = None
        self.horizon: int | None = None  # the oldest version that `load` may go back to, and offer what it did then
        self.value: Any = None  # the public value: what every up-to-date receiver has, bit for bit
        self._clear()

    def _clear(self) -> None:
        """Forget what is known of the newest version and of those before it."""
        self._snapshot: bytes | None = None
        self._digest: bytes | None = None
        self._made: dict[int, CatchUp] = {}  # differences from public versions
        self._wrapped: tuple[tuple[list[bytes], int], bytes] = (([], -1), b"")  # the last bundle, and what is in it
        self._rebuilt: dict[int, ReceiverState] = {}

    @property
    def version(self) -> int:
        """Of the value last published; 0: nothing yet."""
        return self._sender.sequence

    @property
    def entry(self) -> bytes:
        """The frame published last; LocalError while there is none."""
        if self.version < 1 + (not self.codec.stateless):
            raise LocalError("Broadcast: no entry has been published after the first value")
        return self._whole if self.codec.stateless else self._log.entries(self.version - 1)[-1]

    @property
    def codec(self) -> Lift:
        """What the entries are encoded with."""
        return self._sender.codec

    @property
    def own(self) -> PersonalUpdates | None:
        """The differences for single receivers."""
        return self._own

    @property
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        """Its kinds of frame, with what each is made with."""
        spec, own = self._sender.spec, self._own
        found = [(kind, self.codec, spec) for kind in ("", SEED, PATCH)]
        return found if own is None else [*found, (OWN, own.codec, spec)]

    @property
    def oldest(self) -> int:
        """The oldest public version that is not forgotten."""
        return max(self._log.first, self.version - self.keep)

    def publish(self, x: Any) -> None:
        """Make x, as the codec renders it, the next version; LocalError, with nothing changed, unless x is finite."""
        sender = self._sender
        if sender.codec.stateless:
            sender.resync()  # an entry that is whole needs no history
            self._whole = sender.send(x)
            self.value = sender.value
            sender.commit()
        elif self.version == 0:
            sender.start(x)
            sender.sequence = 1  # so that versions and sequence numbers agree
            self.value = copied(x)
            self._log.begin(sender.snapshot())
            self._changes = Changes(sender.state) if patchable(self.codec) else None
        else:
            self._enter(x)
        if self.version == 1 and self._seed is not None:
            self.seed_frame = self._seed.frame(self.value, self.codec, sender.spec)
        rebuilt = self._rebuilt
        self._clear()
        self._rebuilt = rebuilt

    def _enter(self, x: Any) -> None:
        """One more entry."""
        sender, before = self._sender, self._sender.state
        entry, base = sender.send(x), sender.snapshot() if self._log.full else None
        self.value = sender.value
        sender.commit()
        if base is not None:
            self._log.begin(base)
        self._log.append(entry)
        if self._changes is not None:
            self._changes.note(before, sender.state, self.version)
        back = self.version if self.horizon is None else min(self.version, self.horizon)
        self._log.forget(back - self.keep)

    def frames(self, version: int | None) -> list[bytes]:
        """The frames that give a receiver at public `version` (None or 0: new) the public value: the shortest."""
        return list(self._shortest(self._exact(version or 0)).frames)

    def bundle(self, version: int | None, ack: int = 0) -> bytes:
        """Those frames as one message, the last one carrying the receiver's acknowledgement.

        Without frames (the receiver is up to date) the acknowledgement follows the count.
        """
        asked = (self.frames(version), ack)
        if asked != self._wrapped[0]:  # many versions may get the same frames, megabytes of them
            self._wrapped = (asked, wrap(*asked))
        return self._wrapped[1]

    def route(self, held: HeldState) -> CatchUp:
        """The shortest way for a receiver that holds this, be it lossy."""
        return self._shortest([*self._exact(0 if held.frames else held.base, held), *self._lossy(held)])

    def _shortest(self, ways: Sequence[Candidate] | Iterator[Candidate]) -> CatchUp:
        if self.version == 0:
            raise LocalError("Broadcast: nothing has been published")
        best: CatchUp | None = None
        for least, make in ways:
            if best is None or least <= best.cost[0]:
                route = make()
                best = route if best is None or route.cost < best.cost else best
        assert best is not None
        return best

    def _exact(self, version: int, held: HeldState | None = None) -> Iterator[Candidate]:
        """Ways to the public value;"""
        here = HeldState(self.version)
        if self.version == (held or HeldState(version)).version:
            yield 0, lambda: CatchUp((), held or here)
            return
        seed = () if version or (held is not None and held.frames) or not self.seed_frame else (self.seed_frame,)
        since = 1 if seed else version
        if seed and self.version == 1:
            yield 0, lambda: CatchUp(seed, here)
        elif 1 <= max(1, self.oldest) <= since < self.version and not self.codec.stateless:
            entries = (*seed, *self._log.entries(since))
            yield 0, lambda: CatchUp(entries, here)
            if self._changes is not None:
                yield self._changes.least_bytes(since), lambda: CatchUp((*seed, self._patch(since)), here)
        yield self._all_bytes, lambda: CatchUp((self.whole,), here)

    @property
    def _all_bytes(self) -> int:
        """The least that `_all` takes."""
        if self.codec.stateless:
            return len(self._whole)
        return HEADER_BYTES + sum(x.nbytes for x in vectors(self._sender.state))

    @property
    def whole(self) -> bytes:
        """A frame that needs nothing before it."""
        if self.codec.stateless:
            return self._whole
        self._snapshot = self._snapshot or self._sender.snapshot()
        return self._snapshot

    def _patch(self, since: int) -> bytes:
        assert self._changes is not None
        now = ReceiverState(self.value, self.version, self._sender.history, self._sender.state)
        self._digest = self._digest or digest(vectors(now.state))
        return write_patch(self.codec, self._sender.spec, now, since, self._changes.since(since), self._digest)

    def _lossy(self, held: HeldState) -> Iterator[Candidate]:
        """A difference to what the receiver holds; to zeros, when that is unknown here."""
        if self._own is None or held.version == self.version:
            return
        if held.frames:
            yield 0, lambda: self._difference(held)
        elif not (self.seed_frame and self.version == 1 and not held.base):
            if held.base not in self._made:
                self._made[held.base] = self._difference(held)
            yield 0, lambda: self._made[held.base]

    def _difference(self, held: HeldState) -> CatchUp:
        assert self._own is not None
        prefix: tuple[bytes, ...] = ()
        if not held.base and not held.frames and self.seed_frame:
            prefix, held = (self.seed_frame,), HeldState(1)
            track = self._seed_track()
        else:
            track = self.track(held)
        if track is None:
            track, held = self._own.blank(), HeldState()
        frame = self._own.encode(self.value, self.version, track, self._sender.key)
        return CatchUp((*prefix, frame), HeldState(held.base, (*held.frames, frame)), exact=False)

    def track(self, held: HeldState) -> ReceiverState | None:
        """What a receiver holds, rebuilt bit for bit; None: it cannot be, any more."""
        if self._own is None or not held.version:
            return None
        if held.alone:
            return self._own.replay(held.frames, self._own.blank())
        if held.base == 1 and self.seed_frame and (held.frames or not self.codec.stateless):
            base: ReceiverState | None = self._seed_track()
        else:
            base = self._public(held.base)
        return None if base is None else self._own.replay(held.frames, base)

    def _seed_track(self) -> ReceiverState:
        """Version 1, made anew."""
        assert self._seed is not None and self.seed_frame is not None
        if 1 not in self._rebuilt:
            value = self._seed.build(self._seed.key)
            history = Frame.parse(self.seed_frame).header.history
            self._remember(ReceiverState(value, 1, history, self.codec.start(value, self._sender.spec)))
        return self._rebuilt[1]

    def _public(self, version: int) -> ReceiverState | None:
        """A public version, rebuilt from the log."""
        if self.codec.stateless or not max(1, self.oldest) <= version <= self.version:
            return None
        if version not in self._rebuilt:
            receiver = self._walk(*self._log.way(version))
            value = value_of(self.codec, receiver.state, self._sender.spec)
            self._remember(ReceiverState(value, version, receiver.history, receiver.state))
        return self._rebuilt[version]

    def _remember(self, track: ReceiverState) -> None:
        while len(self._rebuilt) >= REBUILT:
            del self._rebuilt[next(iter(self._rebuilt))]
        self._rebuilt[track.version] = track

    def compact(self, held: HeldState) -> HeldState:
        """The same in fewer bytes: a recipe that has grown longer than the value becomes the value."""
        whole = sum(x.nbytes for _, x in named(self.value))
        track = self.track(held) if sum(map(len, held.frames)) > whole + HEADER_BYTES else None
        if track is None or self._own is None:
            return held
        return HeldState(0, (self._own.store(track),))

    def dump(self) -> list[bytes]:
        """The sender, the seed's frame, and what the log holds unless it is in a folder: for a checkpoint."""
        found = [self._sender.dump(), *([self.seed_frame] if self.seed_frame else [])]
        if self.codec.stateless:
            return [*found, self._whole]
        return found if self._log.folder is not None else [*found, *self._log.records()]

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        """Become the broadcast that was dumped; sentences about what of the log in its folder is lost."""
        self._sender.load(dumped[0])
        spec, records = self._sender.spec, list(dumped[1:])
        self.seed_frame = None
        if records and Frame.parse(records[0]).header.codec == codec_hash(self.codec, spec, SEED):
            self.seed_frame = records.pop(0)
        self._clear()
        if self.codec.stateless:
            self._whole = records[0]
            self.value = Receiver(self.codec, spec).receive(self._whole)
            return []
        self.value = value_of(self.codec, self._sender.state, spec)
        if self._log.folder is None:
            self._log = Log(None, self._every, self._hash)
            for record in records:
                (self._log.begin if Frame.parse(record).header.snapshot else self._log.append)(record)
        return self._replay()

    def attach(self, folder: Path) -> list[str]:
        """Keep the log in a folder from now on; sentences about what of it cannot be used.

        What the folder holds is taken over as far as it leads to this version. A broadcast that has published nothing
        becomes what the folder holds. The entries of a stateless codec need no log.
        """
        if self.codec.stateless:
            return []
        self._log = Log(folder, self._every, self._hash)
        if self.version:
            return self._replay()
        said = self._log.rewind(MAX_SEQUENCE)
        if not self._log.last:
            return said
        receiver = self._walk(*self._log.way(self._log.last))
        self._sender.load(receiver.dump())
        self.value = value_of(self.codec, self._sender.state, self._sender.spec)
        return [*said, *self._replay()]

    def _walk(self, base: bytes, entries: Sequence[bytes]) -> Receiver:
        """A receiver that took these."""
        receiver = Receiver(self.codec, self._sender.spec)
        receiver.adopt(base)
        for entry in entries:
            receiver.receive(entry)
        return receiver

    def _replay(self) -> list[str]:
        """Go back to our version in the log and learn from it what changed when; begin it anew if it is another's."""
        sender, log = self._sender, self._log
        said = log.rewind(self.version)
        receiver = Receiver(self.codec, sender.spec)
        changes = None
        try:
            for record in log.records():
                before, header = receiver.state, Frame.parse(record).header
                if header.snapshot:
                    receiver.adopt(record)
                    changes = changes or (Changes(receiver.state) if patchable(self.codec) else None)
                else:
                    receiver.receive(record)
                    if changes is not None:
                        changes.note(before, receiver.state, header.sequence + 1)
        except WireError as error:
            said.append(f"{log.folder}: {error}")
        if log.last != self.version or receiver.dump() != sender.snapshot():
            if log.first and log.folder is not None and not said:
                said.append(f"{log.folder} holds the log of another run, or not all of this one's; it begins anew")
            log.clear()
            log.begin(sender.snapshot())
            changes = Changes(sender.state) if patchable(self.codec) else None
        self._changes = changes
        return said

    def sync(self) -> None:
        """Wait until the log is on disk."""
        self._log.sync()
