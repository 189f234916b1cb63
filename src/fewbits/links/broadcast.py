"""Broadcast: one sender, many receivers, some of which missed versions.

The server's history is a log of encoded entries with versions. A receiver gets the shortest, by real length, of what
leads from what it holds to the newest version: entries, a patch, a snapshot, a seed before them at first contact, or a
lossy difference for this receiver alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fewbits.codecs import Lift
from fewbits.codecs.flat_view import copied
from fewbits.errors import LocalError, WireError
from fewbits.links.catch_up import Candidate, CatchUp, shortest
from fewbits.links.downlink import Downlink, Part, value_of, vectors
from fewbits.links.history import History
from fewbits.links.identity import PATCH, PERSONAL, SEED, codec_hash
from fewbits.links.personal_catch_up import PersonalCatchUps
from fewbits.links.personal_updates import HeldState, PersonalUpdates
from fewbits.links.publisher import Publisher
from fewbits.links.receiver import Receiver
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit, check_seed, seed_state
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import Frame
from fewbits.wire.frame import HEADER_BYTES


class Broadcast(Publisher):
    """Publish values, then ask for the bundle that brings a receiver up to date.

    A stateless codec sends the newest value whole. `Delta(C)` sends differences to the value that all receivers hold:
    v_t = v_{t-1} + C(x_t - v_{t-1}), the downlink of EF21-P. `value` is v_t; what C misses is in the next difference.
    The first value then travels as a seed or a snapshot. Other stateful codecs are refused: their snapshot would not
    hold the value. In a `route`, stateless groups beside a `Delta` group are put under `LastValue`.

    Args:
        codec: one codec for all receivers, or a `Downlink`, which may have another for personal updates.
        spec: names, shapes and dtypes of the value.
        key: private key of the server's dither.
        keep: versions back that entries, patches and personal differences lead from. Receivers further behind get a
            snapshot. Each version costs the memory of its entry.
        seed: what version 1 is made from, by receivers that were given the same `build`.

    Raises:
        LocalError: the codec is stateful and not `Delta`, or `publish` was given a value that is not finite.

    >>> import torch, fewbits as fb
    >>> codec, x = fb.Delta(fb.chain(fb.TopK(0.5))), torch.tensor([1.0, 0.0, 2.0, 0.0])
    >>> server, client = fb.links.Broadcast(codec, fb.Spec.of(x), fb.Key(0)), fb.links.Subscriber(codec, fb.Spec.of(x))
    >>> server.publish(x)
    >>> client.receive(server.bundle(client.version))
    tensor([1., 0., 2., 0.])
    >>> server.publish(x + torch.tensor([0.0, 3.0, 0.0, 0.1]))
    >>> client.receive(server.bundle(client.version))
    tensor([1.0000, 3.0000, 2.0000, 0.1000])

    Source: EF21-P (Gruntkowska et al. 2023, arXiv 2209.15218). Catching up by patches and snapshots is ours.
    """

    def __init__(
        self, codec: Part | Downlink, spec: Spec | TreeSpec, key: Key, keep: int = 64, seed: SharedInit | None = None
    ) -> None:
        down = Downlink.of(codec)
        check_seed(seed)
        self._sender = Sender(down.public, spec, key)
        self.keep, self._seed = keep, seed
        self._personal: PersonalCatchUps | None = None
        if down.personal is not None:
            self._personal = PersonalCatchUps(PersonalUpdates(down.personal, spec), self._public_state, key)
        # Personal differences begin from rebuilt versions: snapshots that lie closer cost memory and save time.
        self._history = History(self.codec, spec, keep if self._personal is None else max(1, keep // 4))
        self._latest = b""  # the newest entry of a stateless codec, which holds the whole value
        self._snapshot: bytes | None = None  # of the newest version, once somebody needs it

    @property
    def version(self) -> int:
        return self._sender.sequence

    @property
    def current(self) -> Any:
        return self.value

    @property
    def entry(self) -> bytes:
        if self.version < 1 + (not self.codec.stateless):
            raise LocalError("Broadcast: no entry has been published after the first value")
        return self._latest if self.codec.stateless else self._history.entries(self.version - 1)[-1]

    @property
    def longest_entry(self) -> bytes:
        """An entry in which all has changed that costs bytes only then."""
        return self.entry

    @property
    def snapshot(self) -> bytes:
        if self.codec.stateless:
            return self._latest
        self._snapshot = self._snapshot or self._sender.snapshot()
        return self._snapshot

    @property
    def codec(self) -> Lift:
        """What the entries are encoded with."""
        return self._sender.codec

    @property
    def differential(self) -> bool:
        return not self.codec.stateless

    @property
    def personal(self) -> PersonalUpdates | None:
        return None if self._personal is None else self._personal.updates

    @property
    def kinds(self) -> list[tuple[str, Lift, Spec | TreeSpec]]:
        spec, personal = self._sender.spec, self.personal
        found = [(kind, self.codec, spec) for kind in ("", SEED, PATCH)]
        return found if personal is None else [*found, (PERSONAL, personal.codec, spec)]

    @property
    def oldest(self) -> int:
        """The oldest public version that entries lead on from."""
        return max(self._history.first, self.version - self.keep)

    def publish(self, values: Any) -> None:
        sender = self._sender
        if sender.codec.stateless:
            self._publish_whole(values)
        elif self.version == 0:
            sender.start(values)
            sender.sequence = 1  # so that versions and sequence numbers agree
            self.value = copied(values)
            self._history.begin(sender)
        else:
            self._publish_difference(values)
        if self.version == 1 and self._seed is not None:
            self.seed_frame = self._seed.frame(self.value, self.codec, sender.spec)
        self._forget_newest()

    def _publish_whole(self, values: Any) -> None:
        sender = self._sender
        sender.resync()  # a receiver that missed entries can take a key frame
        self._latest = sender.send(values)
        self.value = sender.value
        sender.commit()

    def _publish_difference(self, values: Any) -> None:
        sender, before = self._sender, self._sender.state
        entry, snapshot = sender.send(values), sender.snapshot() if self._history.full else None
        self.value = sender.value
        sender.commit()
        self._history.append(entry, snapshot, before, sender)
        back = self.version if self.horizon is None else min(self.version, self.horizon)
        self._history.forget(back - self.keep)

    def _forget_newest(self) -> None:
        """Drop what was made for the version that was the newest."""
        self._snapshot = None
        if self._personal is not None:
            self._personal.clear()

    def frames(self, version: int | None) -> list[bytes]:
        return list(self._shortest(self._exact(HeldState(version or 0))).frames)

    def catch_up(self, before: HeldState) -> CatchUp:
        return self._shortest(self._candidates(before))

    def _shortest(self, candidates: Iterator[Candidate]) -> CatchUp:
        if self.version == 0:
            raise LocalError("Broadcast: nothing has been published")
        found = shortest(candidates)
        assert found is not None
        return found

    def _candidates(self, before: HeldState) -> Iterator[Candidate]:
        yield from self._exact(before)
        if self._personal is not None:
            yield from self._personal.candidates(before, self.value, self.version, self.seed_frame)

    def _exact(self, before: HeldState) -> Iterator[Candidate]:
        """Everything that leads from `before` to the public value without loss.

        Nothing, when the receiver is up to date. At first contact a seed stands for version 1. Entries and a patch lead
        on from a public version in the history. A snapshot needs no such version, and always comes last.
        """
        here = HeldState(self.version)
        if before.version == self.version:
            yield 0, lambda: CatchUp((), before)
            return
        seed = (self.seed_frame,) if self.seed_frame and before == HeldState() else ()
        since = 1 if seed else 0 if before.frames else before.base
        if seed and self.version == 1:
            yield 0, lambda: CatchUp(seed, here)
        elif 1 <= max(1, self.oldest) <= since < self.version and not self.codec.stateless:
            entries = (*seed, *self._history.entries(since))
            yield 0, lambda: CatchUp(entries, here)
            if (least := self._history.patch_bytes(since)) is not None:
                yield least, lambda: CatchUp((*seed, self._history.patch(since, self._newest())), here)
        yield self._least_snapshot, lambda: CatchUp((self.snapshot,), here)

    @property
    def _least_snapshot(self) -> int:
        """A lower bound on the snapshot's length."""
        if self.codec.stateless:
            return len(self._latest)
        return HEADER_BYTES + sum(x.nbytes for x in vectors(self._sender.state))

    def _newest(self) -> ReceiverState:
        return ReceiverState(self.value, self.version, self._sender.history, self._sender.state)

    def receiver_state(self, before: HeldState) -> ReceiverState | None:
        return None if self._personal is None else self._personal.receiver_state(before)

    def compact(self, before: HeldState) -> HeldState:
        return before if self._personal is None else self._personal.compact(before, self.value)

    def _public_state(self, version: int, seeded: bool) -> ReceiverState | None:
        """What a receiver of a public version held; `seeded`: whether it made version 1 from the seed."""
        if version == 1 and self.seed_frame and (seeded or not self.codec.stateless):
            assert self._seed is not None
            known = self._history.remembered(1)
            return known or self._history.remember(
                seed_state(self._seed, self.seed_frame, self.codec, self._sender.spec)
            )
        if self.codec.stateless or not max(1, self.oldest) <= version <= self.version:
            return None
        return self._history.rebuild(version)

    def dump(self) -> list[bytes]:
        found = [self._sender.dump(), *([self.seed_frame] if self.seed_frame else [])]
        return [*found, *([self._latest] if self.codec.stateless else self._history.records())]

    def load(self, dumped: Sequence[bytes]) -> list[str]:
        if not dumped:
            raise WireError("a dumped broadcast has at least one frame; got none")
        self._sender.load(dumped[0])
        spec, records = self._sender.spec, list(dumped[1:])
        self.seed_frame = None
        if records and Frame.parse(records[0]).header.codec == codec_hash(self.codec, spec, SEED):
            self.seed_frame = records.pop(0)
        self._forget_newest()
        if self.codec.stateless:
            if len(records) != 1:
                raise WireError(f"a dumped broadcast of {self.codec!r} ends with one frame of it; got {len(records)}")
            self._latest = records[0]
            receiver = Receiver(self.codec, spec)
            receiver.agreed = self._sender.agreed
            self.value = receiver.receive(self._latest)
            if receiver.expects != self.version:
                raise WireError(f"a dumped broadcast of version {self.version} holds that of {receiver.expects}")
            return []
        self.value = value_of(self.codec, self._sender.state, spec)
        return self._history.load(records, self._sender)

    def attach(self, folder: Path) -> list[str]:
        """Keep the history in a folder from now on; returns sentences about what of the folder cannot be used.

        What the folder holds is taken over as far as it leads to this version. A broadcast that has published nothing
        becomes what the folder holds. A stateless codec needs no history.
        """
        if self.codec.stateless:
            return []
        said = self._history.attach(folder, self._sender)
        if self.value is None and self.version:
            self.value = value_of(self.codec, self._sender.state, self._sender.spec)
        return said

    def sync(self) -> None:
        self._history.sync()
