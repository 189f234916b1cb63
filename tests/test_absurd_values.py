"""Absurd values in well-formed frames: no end raises anything but the library's errors, or holds what is not finite."""

import struct

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits import topology
from fewbits.learn import DSGD, Choco, DeepSqueeze, Malcom, Node
from fewbits.links.bundle import unpack, wrap
from fewbits.testing.ends import restamp
from fewbits.wire import Frame

ABSURD = [struct.pack(">f", x) for x in (np.nan, np.inf, -np.inf, 3.4e38, -4.7e36, 1e-45)]
ABSURD += [b[::-1] for b in ABSURD] + [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00"]


def spoiled(frame: bytes, rng: np.random.Generator) -> bytes:
    """The frame with an absurd number, or a random byte, somewhere in its payload, and a checksum that fits."""
    payload = bytearray(Frame.parse(frame).payload)
    at = int(rng.integers(len(payload))) if payload else 0
    new = ABSURD[rng.integers(len(ABSURD))] if rng.random() < 0.7 else bytes([rng.integers(256)])
    payload[at : at + len(new)] = new[: max(0, len(payload) - at)]
    return restamp(frame, bytes(payload))


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def flat_build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


DOWN = ["dense", "fp16", "delta8", "delta4", "sparse", "changes", "own8", "own4"]
METHODS = [*(f"topk@down={down}" for down in DOWN), "scaffold@down=delta8", "intrinsic@dim=8,mode=time-varying,epoch=2"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("known", [1, 0])
def test_a_client_bears_whatever_a_server_writes_into_its_bundles(method, known):
    make = flat_build if method.startswith("intrinsic") else build
    rng = np.random.default_rng(known)
    server, client = fb.Server(make(), method, fb.Key(0), total_weight=10.0), fb.Client(make(), method, fb.Key(1))
    if known:
        client.receive(server.bundle(0))
        server.accept(0, client.reply(steps=1, lr=0.1) if method.startswith("scaffold") else client.reply(), 1.0)
    server.step()
    frames = unpack(server.bundle(0))
    refused = 0
    for _ in range(40):
        before = client.dump()
        lie = wrap([spoiled(bytes(frame), rng) for frame in frames], 1)
        try:
            client.receive(lie)
        except fb.FewbitsError:
            refused += 1
            assert client.dump() == before
        else:
            assert all(bool(torch.isfinite(x).all()) for x in client.model.state_dict().values())
            client.load(before)
    assert refused


GOSSIP = [
    DSGD(),
    DSGD(fb.Quantize(bits=4)),
    Choco(fb.TopK(0.3), gamma=0.3),
    DeepSqueeze(fb.TopK(0.3), gamma=0.3),
    Malcom(fb.TopK(0.3), gamma=0.3),
]


def train(model):
    model.params.sub_(0.01)
    return 0.1


@pytest.mark.parametrize("method", GOSSIP, ids=repr)
@pytest.mark.parametrize("memory", ["two", "copies"])
def test_a_node_bears_whatever_its_neighbour_writes_into_its_frames(method, memory):
    rng = np.random.default_rng(0)
    nodes = [Node(build(), method, topology.ring(3), me, fb.Key(0), memory=memory) for me in range(3)]
    for _ in range(12):
        frames = [node.step(train) for node in nodes]
        for _ in range(4):
            lie = spoiled(frames[1], rng)
            victim = nodes[0]
            before = victim.inbox.receivers[1].dump()
            try:
                victim.receive(1, lie)
            except fb.FewbitsError:
                assert victim.inbox.receivers[1].dump() == before
            else:
                victim.inbox.receivers[1].load(before)  # it was taken; let the true one come, too
                break
        for node in nodes:
            for j in node.expected:
                if node.me == 0 and j == 1 and 1 in node.inbox.received:
                    node.inbox.receivers[1] = fresh(node, nodes[1])
                    continue
                node.receive(j, frames[j])
            node.mix()
            assert bool(torch.isfinite(node.vectors.x).all()) and node.vectors.x.norm() < 1e8


def fresh(node, sender):
    """A receiving end that is where the sender is."""
    receiver = fb.Receiver(sender.sender.codec, sender.spec, fb.Key(0).fold("common"))
    receiver.adopt(sender.sender.snapshot())
    return receiver


@pytest.mark.parametrize("method", GOSSIP, ids=repr)
@pytest.mark.parametrize("size", [1e9, 4.7e36, 3e38])
def test_a_neighbours_huge_values_are_left_out_and_counted_and_the_run_goes_on(method, size):
    nodes = [Node(flat_build(), method, topology.ring(3), me, fb.Key(0)) for me in range(3)]

    def lie(model):
        model.params.fill_(size)
        return 0.1

    for _ in range(4):
        frames = [node.step(lie if node.me == 1 else train) for node in nodes]
        for me in (0, 2):
            for j in nodes[me].expected:
                nodes[me].receive(j, frames[j])
            nodes[me].mix()
            assert nodes[me].vectors.x.abs().max() < 2
        for j in nodes[1].expected:
            nodes[1].receive(j, frames[j])
        nodes[1].mix()
    assert nodes[0].watch.left_out == nodes[2].watch.left_out == {1: 4}
    assert "values up to" in nodes[0].watch.reasons[1]


@pytest.mark.parametrize("method", GOSSIP, ids=repr)
@pytest.mark.parametrize("memory", ["two", "copies"])
@pytest.mark.parametrize("size", [-1e9, 4.7e36])
def test_a_key_frame_with_huge_values_is_left_out_and_the_round_goes_on(method, memory, size):
    nodes = [Node(flat_build(), method, topology.ring(3), me, fb.Key(0), memory=memory) for me in range(3)]
    for round in range(1, 4):
        frames = [node.step(train) for node in nodes]
        public = nodes[1].vectors.public.clone()
        for node in nodes:
            if (round, node.me) == (2, 0):
                node.ask(1)
            for j in node.expected:
                if j not in node.wanted:
                    node.receive(j, frames[j])
            for j in sorted(node.wanted):
                nodes[1].vectors.public.fill_(size)
                node.receive(j, nodes[j].key_frame())
                nodes[1].vectors.public.copy_(public)
            node.mix()
    assert nodes[0].watch.left_out == {1: 1} and "round 2: values up to" in nodes[0].watch.reasons[1]
    assert nodes[0].vectors.x.abs().max() < 2


@pytest.mark.parametrize("method", GOSSIP, ids=repr)
@pytest.mark.parametrize("lie", [1e3, -1e3])
def test_a_neighbour_whose_change_is_far_longer_than_usual_is_left_out_from_the_first_round_on(method, lie):
    nodes = [Node(flat_build(), method, topology.ring(3), me, fb.Key(0)) for me in range(3)]

    def far(model):
        model.params.sub_(0.01 * lie)
        return 0.1

    for _ in range(4):
        frames = [node.step(far if node.me == 1 else train) for node in nodes]
        for node in nodes:
            for j in node.expected:
                node.receive(j, frames[j])
            node.mix()
    for me in (0, 2):
        assert set(nodes[me].watch.left_out) == {1} and nodes[me].vectors.x.abs().max() < 2
    assert "the 2-norm of its change is" in nodes[0].watch.reasons[1]


def test_without_a_bound_a_long_change_counts():
    method = Choco(fb.Raw(), gamma=0.3, norm_bound=None)
    pair = [Node(flat_build(), method, topology.ring(2), me, fb.Key(0)) for me in range(2)]
    frame = pair[1].step(lambda model: float(model.params.fill_(500.0).numel()))
    pair[0].step(train)
    pair[0].receive(1, frame)
    assert not pair[0].watch.left_out
    with pytest.raises(fb.LocalError, match="norm_bound"):
        Choco(norm_bound=10)  # pyright: ignore[reportArgumentType]


def test_nodes_that_differ_in_their_steps_by_far_are_not_left_out():
    nodes = [Node(flat_build(), DSGD(), topology.ring(3), me, fb.Key(0)) for me in range(3)]
    for _ in range(5):
        sizes = {0: 0.001, 1: 0.05, 2: 0.01}
        frames = [node.step(lambda m, s=sizes[node.me]: float(m.params.sub_(s).numel() > 0)) for node in nodes]
        for node in nodes:
            for j in node.expected:
                node.receive(j, frames[j])
            node.mix()
    assert not any(node.watch.left_out for node in nodes)


@pytest.mark.parametrize("number", [-1, 2**24 + 1, True, 1.5, "3"])
def test_a_link_resyncs_to_numbers_that_there_are(number):
    sender = fb.Sender(fb.Raw(), fb.Spec((2,)), fb.Key(0))
    with pytest.raises(fb.LocalError, match="resync"):
        sender.resync(number)
