"""History: the entries of a broadcast, from which old versions are rebuilt, and the version each word changed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewbits.codecs import Lift
from fewbits.codecs.lifts.lift import AnySpec
from fewbits.errors import WireError
from fewbits.links.downlink import patchable, value_of, vectors
from fewbits.links.identity import codec_hash
from fewbits.links.log import Log
from fewbits.links.patch import Changes, write_patch
from fewbits.links.receiver import Receiver
from fewbits.links.receiver_state import ReceiverState
from fewbits.links.sender import Sender
from fewbits.links.shared_init import digest
from fewbits.wire import Frame
from fewbits.wire.frame import MAX_SEQUENCE

REBUILT = 8  # old versions held in memory, of those that personal differences begin from


class History:
    """The log of a broadcast whose codec has a state, with all that catch-ups take from it."""

    def __init__(self, codec: Lift, spec: AnySpec, every: int) -> None:
        """`every`: entries between two snapshots in the log. Fewer take memory, and old versions are rebuilt sooner."""
        self._codec, self._spec, self._every = codec, spec, every
        self._hash = codec_hash(codec, spec)
        self._log = Log(None, every, self._hash)
        self._changes: Changes | None = None
        self._digest: bytes | None = None  # of the newest version
        self._rebuilt: dict[int, ReceiverState] = {}

    @property
    def first(self) -> int:
        """The oldest version that can be rebuilt; 0: none."""
        return self._log.first

    @property
    def full(self) -> bool:
        """Whether a snapshot should come before the next entry."""
        return self._log.full

    def begin(self, sender: Sender) -> None:
        """Start from the sender's version, which no entry leads to."""
        self._log.begin(sender.snapshot())
        self._changes = self._watch(sender.state)
        self._digest = None

    def append(self, entry: bytes, snapshot: bytes | None, before: Any, sender: Sender) -> None:
        """One more entry, which led the sender from state `before` to its present one; `snapshot`: of `before`."""
        if snapshot is not None:
            self._log.begin(snapshot)
        self._log.append(entry)
        if self._changes is not None:
            self._changes.note(before, sender.state, sender.sequence)
        self._digest = None

    def forget(self, oldest: int) -> None:
        """Drop what is not needed to rebuild version `oldest` and later ones."""
        self._log.forget(oldest)

    def entries(self, since: int) -> list[bytes]:
        """Those that lead from version `since`, at least `first`, to the newest."""
        return self._log.entries(since)

    def patch_bytes(self, since: int) -> int | None:
        """A patch from version `since` has at least so many bytes; None: the codec allows no patches."""
        return None if self._changes is None else self._changes.least_bytes(since)

    def patch(self, since: int, now: ReceiverState) -> bytes:
        """The frame with all words that changed since a version."""
        assert self._changes is not None
        self._digest = self._digest or digest(vectors(now.state))
        return write_patch(self._codec, self._spec, now, since, self._changes.since(since), self._digest)

    def rebuild(self, version: int) -> ReceiverState:
        """What an up-to-date receiver held at a version, at least `first`."""
        if version not in self._rebuilt:
            receiver = self._replayed(*self._log.path_to(version))
            value = value_of(self._codec, receiver.state, self._spec)
            self.remember(ReceiverState(value, version, receiver.history, receiver.state))
        return self._rebuilt[version]

    def remember(self, state: ReceiverState) -> ReceiverState:
        """Hold a rebuilt state, in place of the one held longest."""
        while len(self._rebuilt) >= REBUILT:
            del self._rebuilt[next(iter(self._rebuilt))]
        self._rebuilt[state.version] = state
        return state

    def remembered(self, version: int) -> ReceiverState | None:
        """A rebuilt state that is still held."""
        return self._rebuilt.get(version)

    def records(self) -> list[bytes]:
        """The log for a checkpoint; nothing where a folder has it."""
        return [] if self._log.folder is not None else self._log.records()

    def load(self, records: Sequence[bytes], sender: Sender) -> list[str]:
        """Become the history that had these records; a log in a folder goes back to the sender's version."""
        self._rebuilt.clear()
        if self._log.folder is None:
            self._log = Log(None, self._every, self._hash)
            for record in records:
                (self._log.begin if Frame.parse(record).header.snapshot else self._log.append)(record)
        return self._replay(sender)

    def attach(self, folder: Path, sender: Sender) -> list[str]:
        """Go on in a folder; a sender that has sent nothing becomes what the folder leads to."""
        self._log = Log(folder, self._every, self._hash)
        said: list[str] = []
        if not sender.sequence:
            said = self._log.rewind(MAX_SEQUENCE)
            if not self._log.last:
                return said
            sender.load(self._replayed(*self._log.path_to(self._log.last)).dump())
        return [*said, *self._replay(sender)]

    def sync(self) -> None:
        """Wait until the log is on disk."""
        self._log.sync()

    def _watch(self, state: Any) -> Changes | None:
        return Changes(state) if patchable(self._codec) else None

    def _replayed(self, snapshot: bytes, entries: Sequence[bytes]) -> Receiver:
        """A receiver that took these."""
        receiver = Receiver(self._codec, self._spec)
        receiver.adopt(snapshot)
        for entry in entries:
            receiver.receive(entry)
        return receiver

    def _replay(self, sender: Sender) -> list[str]:
        """Cut the log at the sender's version, and learn from it which word changed when.

        A log that does not lead to the sender's state is another run's; it begins anew from that state.
        """
        log, self._digest = self._log, None
        said = log.rewind(sender.sequence)
        receiver = Receiver(self._codec, self._spec)
        try:
            self._changes = self._learn(receiver)
        except WireError as error:
            said.append(f"{log.folder}: {error}")
        if log.last != sender.sequence or receiver.dump() != sender.snapshot():
            if log.first and log.folder is not None and not said:
                said.append(f"{log.folder} holds the log of another run, or not all of this one's; it begins anew")
            log.clear()
            self.begin(sender)
        return said

    def _learn(self, receiver: Receiver) -> Changes | None:
        """Play the whole log to a receiver; returns what changed when."""
        changes: Changes | None = None
        for record in self._log.records():
            before, header = receiver.state, Frame.parse(record).header
            if header.snapshot:
                receiver.adopt(record)
                changes = changes or self._watch(receiver.state)
            else:
                receiver.receive(record)
                if changes is not None:
                    changes.note(before, receiver.state, header.sequence + 1)
        return changes
