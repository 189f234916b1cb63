"""Laws of every codec against bytes that no encoder wrote: WireError or a finite value, and nothing is lost."""

import contextlib
import tracemalloc

import numpy as np
import pytest
import torch

from every_codec import TREE, ends, fingerprint, law, payload_of, restamp, run, stream
from fewbits.errors import DesyncError, WireError
from fewbits.links.finite import all_finite
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame

ROUNDS = 3


class Victim:
    """A receiver in mid-run, the frame it should get next, and what must come of it."""

    def __init__(self, codec):
        frames, values, _, _ = run(codec, list(stream(ROUNDS + 1)))
        _, self.receiver = ends(codec)
        for frame in frames[:-1]:
            self.receiver.receive(frame)
        self.before = self.receiver.dump()
        self.frame, self.value = frames[-1], fingerprint(values[-1])
        self.payload = payload_of(self.frame)

    def attack(self, frame: bytes) -> bool:
        """True when the frame was taken; then its value is finite and of the right shape."""
        try:
            value = self.receiver.receive(frame)
        except WireError:
            return False
        assert Spec.of(value) == TREE
        assert all_finite(value)
        self.receiver.load(self.before)
        return True

    def survives(self) -> None:
        """After all attacks the right frame still gives the right value."""
        assert self.receiver.dump() == self.before
        assert fingerprint(self.receiver.receive(self.frame)) == self.value


@law
def test_a_truncated_frame_is_refused(codec):
    victim = Victim(codec)
    for cut in range(len(victim.frame)):
        assert not victim.attack(victim.frame[:cut])
    for cut in range(len(victim.payload)):
        assert not victim.attack(restamp(victim.frame, victim.payload[:cut]))
    victim.survives()


@law
def test_an_extended_frame_is_refused(codec):
    victim = Victim(codec)
    for more in (b"\0", b"\xff", b"\0\0\0\0", bytes(range(64)), victim.payload + b"\0"):
        assert not victim.attack(victim.frame + more)
        assert not victim.attack(restamp(victim.frame, victim.payload + more))
    victim.survives()


@law
def test_a_flipped_bit_is_refused_by_the_checksum(codec):
    victim = Victim(codec)
    for bit in range(0, 8 * len(victim.frame), 3):
        flipped = bytearray(victim.frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not victim.attack(bytes(flipped))
    victim.survives()


@law
def test_a_flipped_bit_under_a_right_checksum_gives_an_error_or_a_finite_value(codec):
    victim = Victim(codec)
    stride = max(1, 8 * len(victim.payload) // 250)
    for bit in range(0, 8 * len(victim.payload), stride):
        flipped = bytearray(victim.payload)
        flipped[bit // 8] ^= 1 << bit % 8
        victim.attack(restamp(victim.frame, bytes(flipped)))
    victim.survives()


@law
def test_random_payloads_give_an_error_or_a_finite_value_in_bounded_memory(codec):
    victim = Victim(codec)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for _ in range(60):
            payload = rng.bytes(int(rng.integers(0, 1 + 2 * len(victim.payload))))
            victim.attack(restamp(victim.frame, payload))
            spoiled = bytearray(victim.payload)
            for at in rng.integers(0, len(spoiled), 3):
                spoiled[at] = rng.integers(256)
            victim.attack(restamp(victim.frame, bytes(spoiled)))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000  # bytes, for 41 numbers
    finally:
        tracemalloc.stop()
    victim.survives()


@law
def test_small_frames_of_a_large_tensor_take_memory_for_that_tensor_at_most(codec):
    x = {"weight": torch.zeros(1000, 1000), "bias": torch.zeros(24)}
    sender, receiver = ends(codec, Spec.of(x))
    frame = sender.send(x)
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        for size in (1, 2, 8, 40, 200):
            with contextlib.suppress(WireError):
                receiver.receive(restamp(frame, rng.bytes(size)))
        assert tracemalloc.get_traced_memory()[1] < 40 * 1_000_024
    finally:
        tracemalloc.stop()


@law
def test_a_header_that_does_not_fit_the_link_is_refused(codec):
    victim = Victim(codec)
    header = Frame.parse(victim.frame).header
    for wrong in (
        {"codec": header.codec ^ 1},
        {"sequence": header.sequence + 1},
        {"sequence": header.sequence - 1},
        {"history": header.history ^ 1},
        {"snapshot": True},
        {"key": True},
        {"key": True, "sequence": header.sequence - 1},
    ):
        assert not victim.attack(restamp(victim.frame, **wrong)), wrong
    for frame in (b"", bytes(16), b"\xfb" * 40, bytearray(3)):
        assert not victim.attack(frame)
    victim.survives()


@law
def test_a_frame_of_another_spec_key_or_codec_is_refused(codec):
    victim = Victim(codec)
    other = {"weight": torch.zeros(5, 7), "bias": torch.zeros(6)}
    assert not victim.attack(run(codec, [other] * (ROUNDS + 1), Spec.of(other))[0][-1])
    sender = ends(codec)[0]
    sender.common = Key(99)  # another common key: the history tells
    for x in stream(ROUNDS):
        sender.send(x)
        sender.commit()
    with pytest.raises(DesyncError, match="history"):
        victim.receiver.receive(sender.send(next(stream(1))))
    victim.survives()


@law
def test_a_damaged_or_foreign_store_is_refused_and_changes_nothing(codec):
    _, _, sender, receiver = run(codec, list(stream(ROUNDS)))
    for end in (sender, receiver):
        dumped = end.dump()
        for cut in {0, 1, 15, 16, len(dumped) // 2, len(dumped) - 1} - {len(dumped)}:
            for bad in (dumped[:cut], restamp(dumped, dumped[16 : max(16, cut)])):
                if bad != dumped:
                    with pytest.raises(WireError):
                        end.load(bad)
                    assert end.dump() == dumped
        spoiled = bytearray(payload_of(dumped))
        for at in range(len(spoiled)):
            spoiled[at] ^= 0x55
            try:
                end.load(restamp(dumped, bytes(spoiled)))
                end.load(dumped)
            except WireError:
                assert end.dump() == dumped
            spoiled[at] ^= 0x55
