"""Sender and Receiver: what is pending, what is counted, and what the header carries."""

import pytest
import torch

from every_codec import COMMON, PRIVATE, deliver, ends, payload_of, restamp, run, stream
from fewbits.codecs import Delta, ErrorFeedback, LookBack, RandK, Raw, Sign, TopK, chain, flat, same
from fewbits.coders import Rans
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.links import Receiver, Sender
from fewbits.links.acknowledgement import frames_ahead
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame

X = torch.arange(8.0)
SPEC = Spec.of(X)


def test_a_frame_is_sixteen_bytes_and_the_payload():
    sender, _ = ends(Raw(), SPEC)
    assert len(sender.send(X)) == 16 + 32


def test_the_last_frame_must_be_settled_before_the_next():
    sender, _ = ends(Raw(), SPEC)
    sender.send(X)
    for act in (lambda: sender.send(X), sender.dump):
        with pytest.raises(LocalError, match=r"commit\(\) it or rollback\(\)"):
            act()
    sender.commit()
    for act in (sender.commit, sender.rollback):
        with pytest.raises(LocalError, match="no pending frame"):
            act()


def test_what_is_pending_becomes_true_only_by_commit():
    sender, _ = ends(ErrorFeedback(TopK(0.2)), SPEC)
    before = sender.dump()
    sender.send(X)
    sender.rollback()
    assert sender.dump() == before
    sender.send(X)
    sender.commit()
    assert sender.dump() != before
    assert sender.sequence == 1


def test_a_mistake_of_the_caller_leaves_nothing_pending():
    sender, receiver = ends(Raw(), SPEC)
    for wrong in (X.double(), torch.zeros(9), X / 0, "x"):
        with pytest.raises(LocalError):
            sender.send(wrong)
    deliver(sender, receiver, X)


def test_the_acknowledgement_rides_in_the_header_and_is_not_part_of_the_history():
    sender, receiver = ends(Raw(), SPEC)
    plain = sender.send(X)
    sender.rollback()
    acknowledging = sender.send(X, ack=70_000)
    assert Frame.parse(acknowledging).header.ack == 70_000 % 2**16
    assert acknowledging[16:] == plain[16:]
    receiver.receive(Frame.parse(plain).acknowledging(9).__bytes__())
    sender.commit()
    deliver(sender, receiver, X)
    assert receiver.ack == 2


def test_both_ends_may_be_given_the_common_key_of_a_round():
    x = torch.ones(100)
    sender, receiver = ends(RandK(0.1), Spec.of(x))
    other = Sender(RandK(0.1), Spec.of(x), Key(55), Key(66))
    common = Key(7).fold("round", 3)
    frame = sender.send(x, common=common)
    assert frame[16:] == other.send(x, common=common)[16:]
    assert torch.equal(receiver.receive(frame, common=common), sender.value)
    sender.commit()
    frame = sender.send(x, common=common)
    receiver.receive(frame, common=Key(8))  # the support is not on the wire, so this frame cannot tell,
    sender.commit()
    with pytest.raises(DesyncError, match="history"):  # but the next one can
        receiver.receive(sender.send(x))


def test_an_end_of_another_codec_or_spec_is_told_by_the_hash():
    frame = ends(TopK(0.1), SPEC)[0].send(X)
    for codec, spec in ((TopK(0.2), SPEC), (TopK(0.1), Spec((9,))), (chain(TopK(0.1), Rans()), SPEC)):
        with pytest.raises(WireError, match="another codec or Spec"):
            Receiver(codec, spec, COMMON).receive(frame)
    assert Receiver(flat(chain(TopK(0.1))), SPEC, COMMON).receive(frame).shape == (8,)  # the same, written out


def test_a_key_frame_must_not_go_back():
    sender, receiver = ends(Raw(), SPEC)
    for _ in range(3):
        deliver(sender, receiver, X)
    fresh = Sender(Raw(), SPEC, PRIVATE, COMMON)
    fresh.resync()
    with pytest.raises(DesyncError, match="repeat"):
        receiver.receive(fresh.send(X))
    fresh.rollback()
    fresh.resync(receiver.expects)
    deliver(fresh, receiver, X)
    assert receiver.expects == 4


def test_a_key_frame_drops_shared_state_and_keeps_memory():
    codec = ErrorFeedback(LookBack(TopK(0.3), threshold=1.0))
    sender, receiver = ends(codec)
    for x in stream(3):
        deliver(sender, receiver, x)
    before = sender.memory
    assert bool(before[0][0].any())
    sender.resync()
    assert same(sender.memory, before)
    frame, _ = deliver(sender, receiver, next(stream(1)))
    assert Frame.parse(frame).header.key
    assert receiver.observe()["recycled"] == 0
    assert not Frame.parse(sender.send(next(stream(1)))).header.key


def test_messages_and_snapshots_are_not_mistaken_for_each_other():
    sender, receiver = ends(Delta(Raw()), SPEC)
    with pytest.raises(WireError, match=r"use Receiver\.adopt"):
        receiver.receive(sender.snapshot())
    frame = sender.send(X)
    with pytest.raises(WireError, match=r"use Receiver\.receive"):
        receiver.adopt(frame)
    with pytest.raises(WireError, match="not a stored sender"):
        Sender(Delta(Raw()), SPEC, PRIVATE, COMMON).load(frame)
    receiver.receive(frame)


def test_a_snapshot_lets_a_receiver_take_the_next_frame():
    _, _, sender, receiver = run(Delta(TopK(0.3)), list(stream(4)))
    late = ends(Delta(TopK(0.3)))[1]
    late.adopt(sender.snapshot())
    assert late.dump() == receiver.dump()
    deliver(sender, late, next(stream(1)))


def test_partial_and_full_reception_are_refused_alike():
    frames, _, _, receiver = run(TopK(0.3), list(stream(2)))
    for act in (receiver.receive, receiver.receive_partial):
        for frame, error in (
            (frames[0], DesyncError),
            (frames[1][:-1], WireError),
            (restamp(frames[1], b""), WireError),
        ):
            with pytest.raises(error):
                act(frame)


def test_a_link_ends_after_two_to_the_24_frames():
    sender, _ = ends(Raw(), SPEC)
    sender.resync(2**24)
    with pytest.raises(LocalError, match="open a new one"):
        sender.send(X)


@pytest.mark.parametrize("sequence", [0, 1, 2**15, 2**16 - 1, 2**16, 3 * 2**16 + 7, 2**24 - 2])
def test_sixteen_bits_tell_how_far_the_peer_is_ahead_or_behind(sequence):
    for ahead in (0, 1, -1, 2, -2, 100, -100, 2**15 - 1, -(2**15)):
        if 0 <= sequence + ahead < 2**24:
            assert frames_ahead((sequence + ahead) % 2**16, sequence) == ahead


STARTS = [0, 2**16 - 9, 2**16 - 4, 2**16 - 1, 2**16, 7 * 2**16 - 2, 2**24 - 20]  # wrap-around lies within the frames


@pytest.mark.parametrize("missed", [1, 2, 3, 8])
@pytest.mark.parametrize("start", STARTS)
def test_an_end_restored_from_an_older_copy_heals_by_one_key_frame_around_every_wrap(start, missed):
    for restored in ("sender", "receiver"):
        sender, receiver = ends(LookBack(Raw()), SPEC)
        sender.resync(start)
        deliver(sender, receiver, X)
        old = (sender if restored == "sender" else receiver).dump()
        for i in range(missed):
            deliver(sender, receiver, X + i)
        (sender if restored == "sender" else receiver).load(old)
        assert not sender.acknowledge(receiver.ack)
        frame = sender.send(X)
        assert Frame.parse(frame).header.key and Frame.parse(frame).header.sequence == start + missed + 1
        receiver.receive(frame)
        assert sender.acknowledge(receiver.ack)
        assert not Frame.parse(sender.send(X)).header.key
        sender.rollback()
        deliver(sender, receiver, X)


def test_the_pending_frame_is_settled_by_what_the_peer_has_accepted():
    sender, receiver = ends(LookBack(Raw()), SPEC)
    sender.resync(2**16 - 1)
    receiver.receive(sender.send(X))
    assert sender.acknowledge(receiver.ack) and sender.sequence == 2**16
    before = sender.dump()
    sender.send(X)
    assert not sender.acknowledge(receiver.ack) and sender.dump() == before, "the frame was lost"


def test_a_copy_older_than_half_the_numbers_of_an_acknowledgement_needs_to_be_told_the_number():
    sender, receiver = ends(Raw(), SPEC)
    sender.resync(2**16)
    old = sender.dump()
    sender.resync(2**16 + 2**15 + 1)
    deliver(sender, receiver, X)
    sender.load(old)
    assert not sender.acknowledge(receiver.ack)
    with pytest.raises(DesyncError, match="is a repeat"):
        receiver.receive(sender.send(X))
    sender.resync(receiver.expects)
    deliver(sender, receiver, X)


def test_both_ends_of_a_link_that_has_ended_say_so_and_can_still_be_stored():
    sender, receiver = ends(Raw(), SPEC)
    sender.resync(2**24 - 2)
    deliver(sender, receiver, X)
    for end in (sender, receiver):
        end.load(end.dump())
    with pytest.raises(LocalError, match="carries 16777215 frames; open a new one"):
        sender.send(X)
    past = restamp(ends(Raw(), SPEC)[0].send(X), sequence=2**24 - 1, key=True)
    with pytest.raises(WireError, match="past the end of a link"):
        receiver.receive(past)
    receiver.skip()
    assert receiver.dump()


def test_frames_are_bytes():
    receiver = ends(Raw(), SPEC)[1]
    for wrong in (None, "frame", 7, [1, 2]):
        with pytest.raises(WireError, match="bytes"):
            receiver.receive(wrong)
    frame = ends(Raw(), SPEC)[0].send(X)
    assert torch.equal(receiver.receive(memoryview(frame)), X)


def test_a_coefficient_that_overflows_is_refused_before_it_reaches_a_sum():
    codec = LookBack(Raw(), threshold=1.0)
    for take in ("receive", "receive_partial"):
        frames, _, _, receiver = run(codec, [1e10 * X, 2e10 * X], SPEC)
        receiver = ends(codec, SPEC)[1]
        receiver.receive(frames[0])
        payload = bytearray(payload_of(frames[1]))
        assert len(payload) == 5
        rho = int.from_bytes(payload, "big") >> 7 & 0xFFFFFFFF
        assert rho == 0x40000000  # 2.0, after one bit
        huge = ((1 << 32 | 0x7F7FFFFF) << 7).to_bytes(5, "big")  # the largest float32
        with pytest.raises(WireError, match="not finite"):
            getattr(receiver, take)(restamp(frames[1], huge))
        getattr(receiver, take)(frames[1])


@pytest.mark.parametrize("codec", [chain(Raw()), chain(TopK(0.3)), LookBack(chain(Raw()))], ids=repr)
def test_what_a_link_keeps_does_not_lie_in_a_frame_whose_memory_is_used_again(codec):
    """Partials of a stateless codec may; values never do, and no state does."""
    spec = Spec((37,))
    sender, receiver = Sender(codec, spec, PRIVATE), Receiver(codec, spec)
    twin = Receiver(codec, spec)
    for i in range(4):
        x = torch.arange(37.0) + i % 2
        frame = sender.send(x)
        sender.commit()
        slot = bytearray(frame)
        value, expected = receiver.receive(slot), twin.receive(frame)
        slot[:] = bytes([255]) * len(slot)
        assert torch.equal(value, expected) and same(receiver.state, twin.state)
        assert receiver.dump() == twin.dump()


def test_a_dense_partial_is_a_view_of_the_frame_and_only_of_one_that_can_be_written():
    spec = Spec((8,))
    frame = bytearray(Sender(Raw(), spec, PRIVATE).send(torch.arange(8.0)))
    (lent,), (own,) = (Receiver(Raw(), spec).receive_partial(data) for data in (frame, bytes(frame)))
    assert torch.equal(lent.values, own.values)
    frame[-4:] = bytes(4)
    assert lent.values[-1] == 0 and own.values[-1] == 7


@pytest.mark.parametrize("codec", [ErrorFeedback(TopK(0.5)), LookBack(Sign(bucket=8))])
def test_a_sender_refuses_what_leaves_the_range_of_its_values(codec):
    x = torch.full((16,), 65504.0, dtype=torch.float16)
    sender, receiver = Sender(codec, Spec.of(x), Key(0)), Receiver(codec, Spec.of(x))
    for value in (x, x, x, x):
        try:
            frame = sender.send(value)
        except LocalError:
            break
        receiver.receive(frame)  # whatever is sent can be received
        sender.commit()


def test_the_value_of_a_sender_is_the_callers_own():
    x = torch.ones(4)
    sender = Sender(LookBack(Raw()), Spec.of(x), Key(0))
    sender.send(x)
    sender.value.fill_(7.0)
    assert torch.equal(sender.value, x)
