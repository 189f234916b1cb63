"""Laws of every codec: one function each; its name is the sentence."""

import random

import numpy as np
import pytest
import torch

from every_codec import (
    COMMON,
    PRIVATE,
    TREE,
    classes,
    deliver,
    ends,
    fingerprint,
    law,
    payload_of,
    run,
    stream,
    tree,
    vector,
)
from fewbits import codecs, coders
from fewbits.codecs import same
from fewbits.errors import DesyncError, LocalError
from fewbits.links import Receiver, Sender
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_class_has_examples(cls):
    assert not getattr(cls, "__abstractmethods__", None), f"{cls.__name__} defines no examples()"
    assert len(cls.examples()) > 0
    assert all(type(example) is cls for example in cls.examples())


@law
def test_reading_what_was_written_gives_the_same_message_and_the_same_bytes(codec):
    sender, _ = ends(codec)
    for x in stream(6):
        frame = sender.send(x)
        common = COMMON.fold(sender.sequence)
        src = BitReader(payload_of(frame))
        message = sender.codec.read(TREE, src, common)
        src.finish()
        assert same(message, sender.message)
        assert src.sections == sender.sections
        out = BitWriter()
        sender.codec.write(message, TREE, out)
        assert out.finish() == payload_of(frame)
        sender.commit()


@law
def test_both_ends_have_the_same_value_and_the_same_state_after_every_frame(codec):
    sender, receiver = ends(codec)
    for x in stream(12):
        _, value = deliver(sender, receiver, x)
        assert fingerprint(value) == fingerprint(sender.value)
        assert same(sender.state, receiver.state)
        out = BitWriter()
        sender.codec.write_state(sender.state, TREE, out)
        assert out.finish() == payload_of(receiver.dump())


@law
def test_bytes_do_not_depend_on_global_state_and_do_not_touch_it(codec):
    xs = list(stream(4))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - that it is never read is the point
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        found.append(run(codec, xs)[0])
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
        assert before[2] == random.getstate()
    assert found[0] == found[1]


@law
def test_bytes_do_not_depend_on_the_number_of_threads(codec):
    n = 70_001  # torch cuts loops of more than 32768 elements
    xs = [torch.from_numpy(vector(Key(3).fold("base"), n) + 0.3 * vector(Key(3).fold(t), n)) for t in range(3)]
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            tensors = [{"bias": x[:9], "weight": x[9:]} for x in xs]
            found.append(run(codec, tensors, Spec.of(tensors[0]))[0])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


@law
def test_inputs_are_not_changed(codec):
    xs = list(stream(4))
    before = [fingerprint(x) for x in xs]
    run(codec, xs)
    assert [fingerprint(x) for x in xs] == before


@law
def test_changing_a_sent_or_received_value_later_changes_nothing(codec):
    expected, _, control, _ = run(codec, list(stream(5)))
    sender, receiver = ends(codec)
    frames = []
    for x in stream(5):
        frames.append(sender.send(x))
        for tensor in x.values():
            tensor.fill_(torch.nan)
        sender.commit()
        buffer = bytearray(frames[-1])
        value = receiver.receive(buffer)
        buffer[:] = bytes(len(buffer))  # a network library may use it again
        for tensor in value.values():
            tensor.fill_(torch.nan)
    assert frames == expected
    assert sender.dump() == control.dump()
    assert same(sender.state, receiver.state)


@law
def test_a_resend_after_rollback_gives_the_same_bytes(codec):
    expected = run(codec, list(stream(5)))[0]
    sender, _ = ends(codec)
    for x, frame in zip(stream(5), expected, strict=True):
        for _ in range(2):
            assert sender.send(x) == frame
            sender.rollback()
        sender.send(next(stream(1, seed=9)))  # even with another value in between
        sender.rollback()
        assert sender.send(x) == frame
        sender.commit()


@law
def test_a_skipped_or_repeated_frame_is_refused_and_a_key_frame_heals(codec):
    frames, values, sender, _ = run(codec, list(stream(4)))
    _, receiver = ends(codec)
    receiver.receive(frames[0])
    state = receiver.dump()
    for wrong in (frames[0], frames[2], frames[3]):
        with pytest.raises(DesyncError):
            receiver.receive(wrong)
        assert receiver.dump() == state
    assert fingerprint(receiver.receive(frames[1])) == fingerprint(values[1])
    sender.resync()
    for x in stream(3, seed=8):
        deliver(sender, receiver, x)
        assert same(sender.state, receiver.state)


@law
def test_a_sender_that_lost_everything_goes_on_with_a_key_frame(codec):
    receiver = run(codec, list(stream(4)))[3]
    sender = Sender(codec, TREE, PRIVATE, COMMON)
    sender.resync(receiver.expects)
    for x in stream(3, seed=8):
        deliver(sender, receiver, x)
        assert same(sender.state, receiver.state)


@law
def test_a_receiver_that_lost_everything_goes_on_with_a_key_frame(codec):
    sender = run(codec, list(stream(4)))[2]
    receiver = Receiver(codec, TREE, COMMON)
    frame = sender.send(next(stream(1, seed=8)))
    with pytest.raises(DesyncError):
        receiver.receive(frame)
    sender.rollback()
    sender.resync()
    for x in stream(3, seed=8):
        deliver(sender, receiver, x)


@law
def test_dumped_ends_continue_with_the_same_bytes(codec):
    xs = list(stream(8))
    frames, values, _, _ = run(codec, xs)
    _, _, sender, receiver = run(codec, xs[:4])
    sender2, receiver2 = ends(codec)
    sender2.load(sender.dump())
    receiver2.load(receiver.dump())
    assert sender2.dump() == sender.dump()
    assert receiver2.dump() == receiver.dump()
    for x, frame, value in zip(xs[4:], frames[4:], values[4:], strict=True):
        sent, got = deliver(sender2, receiver2, x)
        assert sent == frame
        assert fingerprint(got) == fingerprint(value)


@law
def test_repr_builds_an_equal_codec(codec):
    public = {name: getattr(room, name) for room in (coders, codecs) for name in room.__all__}
    parts = [type(part) for part in (codec, *getattr(codec, "transforms", ()))]
    foreign = {cls.__name__: cls for cls in parts if not cls.__module__.startswith("fewbits.")}
    again = eval(repr(codec), public | foreign)
    assert again == codec
    assert hash(again) == hash(codec)
    assert repr(again) == repr(codec)


@law
def test_values_that_are_not_finite_are_refused_by_name_and_change_nothing(codec):
    sender, receiver = ends(codec)
    deliver(sender, receiver, next(stream(1)))
    before = sender.dump()
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = next(stream(1, seed=8))
        x["bias"][3] = bad
        with pytest.raises(LocalError, match="bias"):
            sender.send(x)
        assert sender.dump() == before
    deliver(sender, receiver, next(stream(1, seed=8)))


HARD = {
    "zeros": np.zeros(41),
    "negative zeros": np.full(41, -0.0),
    "constant": np.full(41, 0.1),
    "ties": np.tile([1.0, -1.0], 21)[:41],
    "mostly zero": np.eye(1, 41, 17)[0] * -3,
    "denormal": vector(Key(5), 41) * 1e-41,
    "smallest": np.full(41, 1.4e-45),
    "large": np.sign(vector(Key(6), 41)) * 1e38,
    "all scales": np.logspace(-44, 38, 41) * np.tile([1.0, -1.0], 21)[:41],
}


@law
def test_hard_values_come_out_finite(codec):
    for name in HARD:
        sender, receiver = ends(codec)
        for hard in (HARD[name], HARD[name][::-1], np.zeros(41), vector(Key(7), 41), HARD[name]):
            before = sender.dump()
            try:
                deliver(sender, receiver, tree(hard.astype(np.float32)))
            except LocalError as error:
                # 1e38 fits neither fp16 nor, times n/k, float32.
                assert name in ("large", "all scales"), error
                assert "fp16" in repr(codec) or "unbiased" in repr(codec), error
                assert sender.dump() == before
            assert same(sender.state, receiver.state)


@law
def test_every_length_and_shape_works(codec):
    for n in range(34):
        for spec_of in (lambda x: x, lambda x: {"weight": x, "bias": x.clone()}, lambda x: x.reshape(1, -1, 1)):
            x = spec_of(torch.from_numpy(vector(Key(n), n)))
            if "route" in repr(codec) and not isinstance(x, dict):
                continue  # its patterns are for names
            value = run(codec, [x, x, x], Spec.of(x))[1][-1]
            assert Spec.of(value) == Spec.of(x)


@law
def test_every_float_type_works_and_keeps_its_type(codec):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        xs = list(stream(5, dtype=dtype))
        _, values, sender, receiver = run(codec, xs, Spec.of(xs[0]))
        assert Spec.of(values[-1]) == Spec.of(xs[0])
        assert same(sender.state, receiver.state)
    mixed = next(stream(1)) | {"bias": torch.ones(5, dtype=torch.float16)}
    assert Spec.of(run(codec, [mixed, mixed], Spec.of(mixed))[1][-1]) == Spec.of(mixed)


@law
def test_memory_layout_does_not_matter(codec):
    plain = {"weight": torch.from_numpy(vector(Key(4), 35)).reshape(5, 7), "bias": torch.arange(5.0)}
    strided = {"weight": plain["weight"].T.contiguous().T, "bias": torch.arange(5.0).repeat_interleave(2)[::2]}
    assert not strided["weight"].is_contiguous()
    assert run(codec, [plain] * 2, Spec.of(plain))[0] == run(codec, [strided] * 2, Spec.of(plain))[0]
    graph = {name: x.clone().requires_grad_() for name, x in plain.items()}
    assert run(codec, [graph] * 2, Spec.of(plain))[0] == run(codec, [plain] * 2, Spec.of(plain))[0]
