"""What the ends of a link allocate and hold: no vector beyond what they must, and nothing of the caller's."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fewbits as fb
from fewbits import Key, Receiver, Sender, Spec, chain
from fewbits.codecs import DeadZone
from fewbits.codecs.same_memory import same_memory

N = 1_500_000  # entries of the vector
SIZE = 4 * N  # its bytes
WITHOUT_STATE = {
    "tight": chain(fb.Quantize(bits=4), fb.Rans()),
    "fast": chain(fb.Quantize(bits=4), fb.Zstd()),
    "ternary": chain(DeadZone(), fb.Rans()),
    "sign": chain(fb.Sign()),
    "top-k": chain(fb.TopK(0.01), fb.Quantize(bits=8), fb.Rans()),
}


def allocations(work):
    """(result, bytes that stay, most bytes at one time, largest single block of torch's) of a call."""
    work()  # compiles
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    tracemalloc.start()
    result = work()
    stays, most = tracemalloc.get_traced_memory()  # NumPy's blocks
    tracemalloc.stop()
    return result, stays, most, max((event.self_cpu_memory_usage for event in seen.events() or ()), default=0)


@pytest.mark.parametrize("codec", WITHOUT_STATE.values(), ids=WITHOUT_STATE)
def test_ends_allocate_no_vector_beyond_the_result(codec):
    x = torch.randn(N, generator=Key(0).generator())
    sender, receiver = Sender(codec, Spec.of(x), Key(0)), Receiver(codec, Spec.of(x))
    start = receiver.dump()

    def send():
        if sender.pending:
            sender.rollback()
        return sender.send(x)

    def receive():
        receiver.load(start)
        return receiver.receive(frame)

    frame, stays, most, block = allocations(send)
    assert max(stays, most, block) < 0.9 * SIZE
    value, stays, most, block = allocations(receive)
    assert value.shape == x.shape
    assert stays < 1.1 * SIZE
    assert most < 1.9 * SIZE
    assert block < 0.9 * SIZE


def test_error_feedback_of_top_k_makes_one_vector():
    codec, x = fb.ErrorFeedback(WITHOUT_STATE["top-k"]), torch.randn(N, generator=Key(0).generator())
    sender = Sender(codec, Spec.of(x), Key(0))

    def send():
        if sender.pending:
            sender.rollback()
        return sender.send(x)

    _, stays, most, block = allocations(send)
    assert stays < 1.1 * SIZE  # the next residual
    assert most < 1.9 * SIZE
    assert block < 0.9 * SIZE


def test_memory_is_the_same_where_ranges_meet():
    x = torch.arange(12.0)
    assert same_memory(x[2:6], x[5:])
    assert not same_memory(x[2:5], x[5:])
    assert same_memory([None, {"a": x[::5]}], (x[4:6], 3))  # between two entries of a strided view, too
    assert same_memory(x.numpy()[3:4], x)
    assert not same_memory(x[:0], x)
    assert not same_memory((1, "a", None), x)
    assert same_memory({"unknown": object()}, x)


@dataclass(frozen=True, eq=False)
class Point:
    """A key of a dict that holds memory."""

    x: torch.Tensor


def test_memory_that_cannot_be_seen_counts_as_shared():
    x, y = np.zeros(4), np.zeros(4)
    keys = {Point(torch.from_numpy(x)): 1}
    assert same_memory(keys, torch.from_numpy(x)) and not same_memory(keys, torch.from_numpy(y))
    for unseen in (torch.eye(2).to_sparse(), np.array([x], object), np.ma.masked_array(x, x > 0)):
        assert same_memory(unseen, torch.from_numpy(y))
