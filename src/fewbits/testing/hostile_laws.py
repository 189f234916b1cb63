"""Laws against bytes that no encoder wrote: a WireError or a finite value, in bounded memory, and nothing is lost."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from fewbits.errors import DesyncError, WireError
from fewbits.links import Receiver, Sender
from fewbits.links.finite import all_finite
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import ends, fingerprint, payload_of, restamp, run
from fewbits.testing.law import During, demand
from fewbits.testing.link_laws import refuses
from fewbits.testing.memory import takes_memory_for
from fewbits.wire import Frame

ROUNDS = 3


class Victim:
    """A receiver in mid-run, the frame it should get next, and what must come of it."""

    def __init__(self, case: Case) -> None:
        frames, values, _, _ = case.run(case.stream(ROUNDS + 1))
        self.spec, (_, self.receiver) = case.spec, case.ends()
        for frame in frames[:-1]:
            self.receiver.receive(frame)
        self.before = self.receiver.dump()
        self.frame, self.value = frames[-1], fingerprint(values[-1])
        self.payload = payload_of(self.frame)

    def attack(self, frame: bytes | memoryview) -> bool:
        """True when the frame was taken; then its value is finite and of the right shape."""
        try:
            with During("Receiving a hostile frame", frame, allows=WireError):
                value = self.receiver.receive(frame)
        except WireError:
            return False
        demand(Spec.of(value) == self.spec, "A value of another shape arrived", frame=frame, value=value)
        demand(all_finite(value), "A value that is not finite arrived", frame=frame, value=value)
        self.receiver.load(self.before)
        return True

    def refuses(self, frame: bytes | memoryview, what: str) -> None:
        """Demand a WireError."""
        demand(not self.attack(frame), f"{what} was accepted", frame=frame)

    def survives(self) -> None:
        """After all attacks the right frame still gives the right value."""
        demand(self.receiver.dump() == self.before, "A refused frame changed the receiver", frame=self.frame)
        found = fingerprint(self.receiver.receive(self.frame))
        demand(found == self.value, "The right frame gives another value afterwards", frame=self.frame)


@codec_law
def a_truncated_frame_is_refused(case: Case) -> None:
    """A frame or payload that was cut anywhere is a WireError."""
    victim = Victim(case)
    for cut in range(len(victim.frame)):
        victim.refuses(victim.frame[:cut], "A frame that was cut")
    for cut in range(len(victim.payload)):
        victim.refuses(restamp(victim.frame, victim.payload[:cut]), f"A payload that was cut to {cut} bytes")
    victim.survives()


@codec_law
def an_extended_frame_is_refused(case: Case) -> None:
    """A frame or payload with bytes after its end is a WireError."""
    victim = Victim(case)
    for more in (b"\0", b"\xff", b"\0\0\0\0", bytes(range(64)), victim.payload + b"\0"):
        victim.refuses(victim.frame + more, "A frame with bytes after its end")
        victim.refuses(restamp(victim.frame, victim.payload + more), "A payload with bytes after its end")
    victim.survives()


@codec_law
def a_flipped_bit_is_refused_by_the_checksum(case: Case) -> None:
    """A flipped bit is a WireError."""
    victim = Victim(case)
    for bit in range(0, 8 * len(victim.frame), 3):
        victim.refuses(_flipped(victim.frame, bit), f"A frame whose bit {bit} was flipped")
    victim.survives()


@codec_law
def a_flipped_bit_under_a_right_checksum_gives_an_error_or_a_finite_value(case: Case) -> None:
    """A flipped bit under a right checksum is a WireError or gives a finite value."""
    victim = Victim(case)
    for bit in range(0, 8 * len(victim.payload), max(1, 8 * len(victim.payload) // 120)):
        victim.attack(restamp(victim.frame, _flipped(victim.payload, bit)))
    victim.survives()


def _flipped(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


@codec_law
def random_payloads_give_an_error_or_a_finite_value_in_bounded_memory(case: Case) -> None:
    """A random payload is a WireError or gives a finite value, and takes little memory."""
    victim = Victim(case)
    takes_memory_for(case.spec.numel, lambda: _random_payloads(victim))
    victim.survives()


def _random_payloads(victim: Victim) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        payload = rng.bytes(int(rng.integers(0, 1 + 2 * len(victim.payload))))
        victim.attack(restamp(victim.frame, payload))
        spoiled = bytearray(victim.payload)
        for at in rng.integers(0, len(spoiled), 3) if spoiled else ():
            spoiled[at] = rng.integers(256)
        victim.attack(restamp(victim.frame, bytes(spoiled)))


@codec_law
def small_frames_of_a_large_tensor_take_memory_for_that_tensor_at_most(case: Case) -> None:
    """A few random bytes for a million numbers take at most 40 bytes of memory a number."""
    x = case.first() if case.only else {"weight": torch.zeros(1000, 1000), "bias": torch.zeros(24)}
    spec, rng = Spec.of(x), np.random.default_rng(1)
    sender, receiver = ends(case.codec, spec)
    frame = sender.send(x)
    frames = [restamp(frame, rng.bytes(size)) for size in (1, 2, 8, 40, 200)]
    takes_memory_for(spec.numel, lambda: _receive(receiver, frames))


def _receive(receiver: Receiver, frames: list[bytes]) -> None:
    for frame in frames:
        with contextlib.suppress(WireError), During("Receiving a hostile frame", frame, allows=WireError):
            receiver.receive(frame)


@codec_law
def a_header_that_does_not_fit_the_link_is_refused(case: Case) -> None:
    """A frame whose header names another codec, turn, history or kind is a WireError."""
    victim = Victim(case)
    header = Frame.parse(victim.frame).header
    fields: tuple[dict[str, Any], ...] = (
        {"codec": header.codec ^ 1},
        {"sequence": header.sequence + 1},
        {"sequence": header.sequence - 1},
        {"history": header.history ^ 1},
        {"snapshot": True},
        {"key": True},
        {"key": True, "sequence": header.sequence - 1},
    )
    for wrong in fields:
        victim.refuses(restamp(victim.frame, **wrong), f"A header with {wrong}")
    for frame in (b"", bytes(16), b"\xfb" * 40, bytearray(3)):
        victim.refuses(
            frame,  # pyright: ignore
            "A header that is none",
        )
    victim.survives()


@codec_law
def a_frame_of_another_spec_key_or_codec_is_refused(case: Case) -> None:
    """A frame of another Spec, or made with another common key, is a WireError."""
    victim = Victim(case)
    if not case.only:
        other = {"weight": torch.zeros(5, 7), "bias": torch.zeros(6)}
        frame = run(case.codec, [other] * (ROUNDS + 1), Spec.of(other))[0][-1]
        victim.refuses(frame, "A frame of another Spec")
    sender = case.ends()[0]
    sender.common = Key(99)  # another common key: the history tells
    for x in case.stream(ROUNDS):
        sender.send(x)
        sender.commit()
    refuses(DesyncError, victim.receiver.receive, sender.send(case.first()), "history")
    victim.survives()


@codec_law
def a_damaged_or_foreign_store_is_refused_and_changes_nothing(case: Case) -> None:
    """A stored state that was cut or spoiled is a WireError, and the end stays as it was."""
    _, _, sender, receiver = case.run(case.stream(ROUNDS))
    for end in (sender, receiver):
        dumped = end.dump()
        for cut in sorted({0, 1, 15, 16, len(dumped) // 2, len(dumped) - 1} - {len(dumped)}):
            for bad in (dumped[:cut], restamp(dumped, dumped[16 : max(16, cut)])):
                if bad != dumped:
                    refuses(WireError, end.load, bad)
                    demand(end.dump() == dumped, "A refused store changed the end", store=bad)
        _spoil_each_byte(end, dumped)


def _spoil_each_byte(end: Sender | Receiver, dumped: bytes) -> None:
    spoiled = bytearray(payload_of(dumped))
    for at in range(len(spoiled)):
        spoiled[at] ^= 0x55
        _load(end, restamp(dumped, bytes(spoiled)), dumped)
        spoiled[at] ^= 0x55


def _load(end: Any, bad: bytes, dumped: bytes) -> None:
    try:
        with During("Loading a damaged store", bad, allows=WireError):
            end.load(bad)
            end.load(dumped)
    except WireError:
        demand(end.dump() == dumped, "A refused store changed the end", store=bad)
