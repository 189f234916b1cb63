"""Laws of a codec on a link: both ends agree, whatever gets lost or comes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewbits.codecs import same
from fewbits.errors import DesyncError, WireError
from fewbits.links import Receiver, Sender
from fewbits.testing.case import Case, codec_law
from fewbits.testing.ends import COMMON, PRIVATE, deliver, fingerprint, payload_of, state_bytes
from fewbits.testing.law import demand, short
from fewbits.wire import BitReader, BitWriter


@codec_law
def reading_what_was_written_gives_the_same_message_and_the_same_bytes(case: Case) -> None:
    """`read` gives back what `write` got, bit for bit, and writes to the same bytes."""
    sender, _ = case.ends()
    for x in case.stream(6):
        frame = sender.send(x)
        src = BitReader(payload_of(frame))
        message = sender.codec.read(case.spec, src, COMMON.fold(sender.sequence))
        src.finish()
        demand(
            same(message, sender.message),
            "The message that was read is another one",
            input=x,
            written=sender.message,
            read=message,
        )
        demand(src.sections == sender.sections, "Sections differ", written=sender.sections, read=src.sections)
        out = BitWriter()
        sender.codec.write(message, case.spec, out)
        again = out.finish()
        demand(again == payload_of(frame), "Bytes differ", input=x, first=payload_of(frame), second=again)
        sender.commit()


@codec_law
def both_ends_have_the_same_value_and_the_same_state_after_every_frame(case: Case) -> None:
    """Sender and receiver have the same value and the same shared state after every frame."""
    sender, receiver = case.ends()
    for x in case.stream(12):
        _, value = deliver(sender, receiver, x)
        _same_values(value, sender.value, x)
        _same_states(sender, receiver)
        written, received = state_bytes(sender, case.spec), payload_of(receiver.dump())
        demand(written == received, "Written states differ", input=x, sender=written, receiver=received)


@codec_law
def a_resend_after_rollback_gives_the_same_bytes(case: Case) -> None:
    """A frame that is taken back leaves no trace: the same value gives the same frame again."""
    expected = case.run(case.stream(5))[0]
    sender, _ = case.ends()
    for x, frame in zip(case.stream(5), expected, strict=True):
        for _ in range(2):
            _same_bytes(sender.send(x), frame, x)
            sender.rollback()
        sender.send(case.first(9))  # even with another value in between
        sender.rollback()
        _same_bytes(sender.send(x), frame, x)
        sender.commit()


@codec_law
def a_skipped_or_repeated_frame_is_refused_and_a_key_frame_heals(case: Case) -> None:
    """A frame out of turn is a DesyncError and changes nothing; a key frame repairs the link."""
    frames, values, sender, _ = case.run(case.stream(4))
    _, receiver = case.ends()
    receiver.receive(frames[0])
    state = receiver.dump()
    for wrong in (frames[0], frames[2], frames[3]):
        refuses(DesyncError, receiver.receive, wrong)
        demand(receiver.dump() == state, "A refused frame changed the receiver", input=wrong)
    _same_values(receiver.receive(frames[1]), values[1], frames[1])
    sender.resync()
    _goes_on(case, sender, receiver)


@codec_law
def a_sender_that_lost_everything_goes_on_with_a_key_frame(case: Case) -> None:
    """A sender that lost its state continues with a key frame."""
    receiver = case.run(case.stream(4))[3]
    sender = Sender(case.codec, case.spec, PRIVATE, COMMON)
    sender.resync(receiver.expects)
    _goes_on(case, sender, receiver)


@codec_law
def a_receiver_that_lost_everything_goes_on_with_a_key_frame(case: Case) -> None:
    """A receiver that lost its state refuses the next frame and continues with a key frame."""
    sender = case.run(case.stream(4))[2]
    receiver = Receiver(case.codec, case.spec, COMMON)
    refuses(DesyncError, receiver.receive, sender.send(case.first(8)))
    sender.rollback()
    sender.resync()
    _goes_on(case, sender, receiver)


@codec_law
def dumped_ends_continue_with_the_same_bytes(case: Case) -> None:
    """Ends that were dumped and loaded continue with the same frames and values."""
    xs = list(case.stream(8))
    frames, values, _, _ = case.run(xs)
    _, _, sender, receiver = case.run(xs[:4])
    sender2, receiver2 = case.ends()
    for old, new in ((sender, sender2), (receiver, receiver2)):
        new.load(old.dump())
        demand(new.dump() == old.dump(), "A loaded end dumps other bytes", dumped=old.dump(), again=new.dump())
    for x, frame, value in zip(xs[4:], frames[4:], values[4:], strict=True):
        sent, got = deliver(sender2, receiver2, x)
        _same_bytes(sent, frame, x)
        _same_values(got, value, x)


def refuses(error: type[WireError], function: Callable[[Any], Any], argument: Any, says: str = "") -> None:
    """Demand that the call raises this error, with `says` in its text."""
    try:
        found = function(argument)
    except error as refusal:
        demand(says in str(refusal), f"The error should speak of {says}", input=argument, error=str(refusal))
        return
    raise AssertionError(f"No {error.__name__} came; input: {short(argument)}; result: {short(found)}")


def _goes_on(case: Case, sender: Sender, receiver: Receiver) -> None:
    for x in case.stream(3, seed=8):
        deliver(sender, receiver, x)
        _same_states(sender, receiver)


def _same_values(found: Any, expected: Any, x: Any) -> None:
    demand(fingerprint(found) == fingerprint(expected), "Values differ", input=x, expected=expected, found=found)


def _same_bytes(found: bytes, expected: bytes, x: Any) -> None:
    demand(found == expected, "Frames differ", input=x, expected=payload_of(expected), found=payload_of(found))


def _same_states(sender: Sender, receiver: Receiver) -> None:
    demand(same(sender.state, receiver.state), "States differ", sender=sender.state, receiver=receiver.state)
