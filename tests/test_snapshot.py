"""Snapshots for newcomers, and ranks that leave and join in one process."""

from __future__ import annotations

import pytest
import torch

import fewbits as fb
from fewbits.distributed import RandomPartner, Replicas, Streaming
from fewbits.replicas import Replica, Terms
from fewbits.replicas.present import regroup
from fewbits.replicas.snapshot import (
    begin_from,
    most_snapshot_bytes,
    read_snapshot,
    resume_from,
    write_snapshot,
)
from fewbits.wire import Frame
from test_replicas import CODECS, KEY, net, play, ranks, same_bits, train

OPTIMIZER = fb.ServerSGD(momentum=0.5)


def played(method, size: int = 3, **options) -> tuple[list, Replicas]:
    models = ranks(size)
    replicas = Replicas(models, method, every=2, optimizer=OPTIMIZER, **options)
    play(replicas, models, range(5))
    return models, replicas


def newcomer(method, rank: int = 3, **options) -> Replica:
    return Replica(net(), Terms.of(method, OPTIMIZER, 2, **options), rank, 1)


@pytest.mark.parametrize("method", CODECS[1:], ids=str)  # the first travels in slices
def test_a_newcomer_with_nothing_but_the_snapshot_takes_the_same_steps_as_all(method):
    """It has an outer model and receiving ends of its own, and gets the frames of all."""
    models, replicas = played(method, streaming=Streaming(2))
    alone = newcomer(method, streaming=Streaming(2))
    frame = write_snapshot(replicas._replicas[0])
    assert len(frame) <= most_snapshot_bytes(alone, 3)
    found = read_snapshot(frame, alone, (0, 1, 2))
    begin_from(alone, found)
    resume_from(alone.outer, found)
    regroup([alone], (0, 1, 2, 3), [3])
    other = net()
    replicas.join(other, 3)
    models.append(other)
    for step in range(5, 12):
        assert alone.note == replicas._replicas[0].note  # theta, moments and ends are the same bits
        for rank, model in enumerate([*models[:3], other]):
            train(model, rank, step)
        train(alone.tensors.module, 3, step)
        send, _ = alone.due
        if send is not None:
            message = alone.message(send)
        if replicas.step():
            assert bytes(message) == bytes(replicas.messages[3])  # type: ignore[possibly-undefined]
            alone.outer[send].prepare(alone.frames(send, replicas.messages))()  # type: ignore[index]
            alone.settle(send, replicas.messages)  # type: ignore[arg-type]
        alone.steps += 1
    assert all(map(torch.equal, alone.tensors.module.state_dict().values(), other.state_dict().values()))
    replicas.step()


def test_means_are_over_the_ranks_that_are_there_and_bytes_are_counted_with_the_snapshot():
    models, replicas = played("signsgd", size=4)
    for rank in (0, 2):
        replicas.leave(rank)
    left = [models[1], models[3]]
    play(replicas, left, range(5, 6))
    assert same_bits(left) and replicas.ranks == (1, 3)
    late = net()
    before = replicas.sent_bytes
    replicas.join(late, 0)
    there = [late, *left]
    snapshot = len(write_snapshot(replicas._replicas[1]))
    assert same_bits(there) and replicas.ledgers[0].frame_bytes["down"] == replicas.sent_bytes[1] - before[0]
    assert abs(replicas.ledgers[0].frame_bytes["down"] - snapshot) < 100
    play(replicas, there, range(6, 12))
    assert same_bits(there)
    assert replicas.ledgers[0].messages == {"up": 6, "down": 7}


def test_a_damaged_or_foreign_snapshot_is_refused_and_changes_nothing():
    _, replicas = played("lbgm+topk@feedback=outside")
    alone = newcomer("lbgm+topk@feedback=outside")
    before, digest = repr(alone.state_dict()), alone.start_digest()
    frame = bytes(write_snapshot(replicas._replicas[0]))
    generator = KEY.fold("damage").generator()
    payload = bytes(Frame.parse(frame).payload)
    nan = bytearray(payload)
    at = payload.index(replicas._replicas[0].outer[0].state.theta.numpy().tobytes())
    nan[at : at + 4] = b"\xff" * 4
    header = Frame.parse(frame).header
    damaged = [
        (frame[:-1], "checksum"),
        (frame[:10], "at least 16 bytes"),
        (bytes(Frame(header, bytes(nan))), "not finite"),
        (bytes(Frame(header, payload[:-1])), "ends too early"),
        (bytes(Frame(header, payload + b"\0")), "too long"),
        (bytes(write_snapshot(played("topk")[1]._replicas[0])), "no snapshot of this model and method"),
        (bytes(write_snapshot(played("lbgm+topk@feedback=outside", size=2)[1]._replicas[0])), r"ranks \[0, 1\]"),
    ]
    for bad, words in damaged:
        with pytest.raises(fb.WireError, match=words):
            read_snapshot(bad, alone, (0, 1, 2))
    for _ in range(60):  # a wrong byte under a right checksum: an error, or finite values
        changed = bytearray(payload)
        changed[int(torch.randint(len(payload), (), generator=generator))] ^= int(
            torch.randint(1, 256, (), generator=generator)
        )
        try:
            found = read_snapshot(bytes(Frame(header, bytes(changed))), alone, (0, 1, 2))
        except fb.WireError:
            continue
        assert all(bool(state.theta.isfinite().all()) for state, _ in found.parts)
    assert repr(alone.state_dict()) == before and alone.start_digest() == digest


def test_what_cannot_leave_or_join_is_refused_and_the_run_goes_on():
    models, replicas = played("topk", size=2)
    wide = torch.nn.Sequential(torch.nn.Linear(12, 17))
    for act, words in [
        (lambda: replicas.leave(2), r"rank 2 cannot leave; the ranks are \[0, 1\]"),
        (lambda: replicas.join(net(), 1), "rank 1 is there already"),
        (lambda: replicas.join(net(), -1), "rank must be a whole number"),
        (lambda: replicas.join(wide, 2), r"rank 0 has 0.weight, float32 \[16, 12\]; rank 2 has 0.weight"),
        (lambda: replicas.join(models[0], 2), "ranks 0 and 2 share"),
    ]:
        with pytest.raises(fb.LocalError, match=words):
            act()
    replicas.leave(0)
    with pytest.raises(fb.LocalError, match=r"rank 1 cannot leave; the ranks are \[1\]"):
        replicas.leave(1)
    play(replicas, models[1:], range(5, 7))
    assert replicas.ledgers[0].messages["up"] == 2


@pytest.mark.parametrize("method", ["dense", RandomPartner("fedpaq")], ids=["slices", "one partner"])
def test_ranks_leave_and_join_only_where_frames_go_to_all(method):
    replicas = Replicas(ranks(4), method)
    with pytest.raises(fb.LocalError, match=r"leave: ranks leave and join where frames go to all, not in slices or to"):
        replicas.leave(0)


def test_ranks_leave_and_join_only_while_no_frame_travels():
    models = [torch.nn.Linear(3, 2) for _ in range(3)]
    replicas = Replicas(models, "topk", every=3, streaming=Streaming(delay=1))
    for _ in range(3):
        replicas.step()
    with pytest.raises(fb.LocalError, match=r"Replicas\.leave: a frame travels; ask again once it was used, 1 steps"):
        replicas.leave(0)
    with pytest.raises(fb.LocalError, match=r"Replicas\.join: a frame travels"):
        replicas.join(torch.nn.Linear(3, 2), 5)
    replicas.step()
    replicas.leave(0)
    replicas.join(torch.nn.Linear(3, 2), 5)
    for _ in range(3):
        replicas.step()
    assert replicas.ranks == (1, 2, 5)
