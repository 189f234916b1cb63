"""What `load` is given in place of a dump: a FewbitsError, and the state stays as it was."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits import topology
from fewbits.links.bundle import pack, unpack
from fewbits.methods import named
from fewbits.methods.gossip import gossip_method
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.wire import Frame

METHODS = ["dense", "lbgm+topk", "scaffold", "feddyn", "fedadam", "intrinsic@dim=5", "fetchsgd"]
WRONG = [
    5,
    -1,
    "x",
    None,
    [],
    (),
    {},
    b"x",
    b"",
    1.5,
    True,
    object(),
    np.zeros(3),
    torch.zeros(2, 2, dtype=torch.int64),
]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))


def leaves(value, path=()):
    """The path of every part of a container."""
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, part in parts:
        yield from leaves(part, (*path, name))


def replaced(value, path, part):
    if not path:
        return part
    new = copy.copy(value) if isinstance(value, dict) else list(value)
    new[path[0]] = replaced(value[path[0]], path[1:], part)
    return new


def same(a, b):
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def refused(load, state, path, part):
    """Whether a load with this part replaced is refused, with the state as it was; else it must mean the same kind."""
    before = state()
    try:
        load(replaced(before, path, part))
    except fb.FewbitsError:
        assert same(state(), before), f"{path} with {part!r} moved the state"
        return True
    return False


def trained(method, text):
    server = fb.Server(model(), method, fb.Key(0), total_weight=10.0)
    clients = [fb.Client(model(), method, fb.Key(i + 1), i) for i in range(2)]
    for _ in range(3):
        for i, client in enumerate(clients):
            client.receive(server.bundle(i))
            with torch.no_grad():
                for p in client.model.parameters():
                    p.add_(0.01)
            assert server.accept(i, client.reply(steps=1, lr=0.1), 5) is not None
        server.step()
    clients[0].receive(server.bundle(0))
    return server, clients[0]


@pytest.mark.parametrize("text", METHODS)
def test_a_server_refuses_any_part_of_another_kind(text):
    method = named(text)
    server, _ = trained(method, text)

    def state():
        return {"round": server.round, "dumped": dict(server.dump()), "versions": dict(server.downlinks.versions)}

    tried = 0
    for path in leaves(state()):
        for part in WRONG:
            number, empty = path == ("round",) or path[0] == "versions", isinstance(part, list | tuple) and not part
            if (
                (number and part is WRONG[0])
                or (path == ("versions",) and isinstance(part, dict))
                or same(part, _at(state(), path))
            ):
                continue
            if empty and path[:1] == ("dumped",) and (path[1:] == ("norms",) or not len(_at(state(), path))):
                continue  # nothing was dumped
            assert refused(lambda found: server.load(**found), state, path, part), (path, part)
            tried += 1
    assert tried > 150


def _at(value, path):
    for name in path:
        value = value[name]
    return value


@pytest.mark.parametrize("text", [*METHODS, "downlink"])
def test_damaged_frames_of_a_broadcast_leave_a_server_as_it_was(text):
    method = fb.Method.of(fb.TopK(0.5), fb.Delta(fb.TopK(0.5))) if text == "downlink" else named(text)
    server, _ = trained(method, text)

    def state():
        return {"round": server.round, "dumped": dict(server.dump()), "versions": dict(server.downlinks.versions)}

    frames = state()["dumped"]["broadcast"]
    for i, frame in enumerate(frames):
        for part in (b"", b"x", bytes(frame)[:-1], bytes(frame)[:-1] + bytes([frame[-1] ^ 1])):
            assert refused(lambda found: server.load(**found), state, ("dumped", "broadcast", i), part)
    assert refused(lambda found: server.load(**found), state, ("dumped", "broadcast"), [b"x"] * len(frames))


@pytest.mark.parametrize("text", METHODS)
def test_a_server_refuses_versions_and_rounds_that_never_were(text):
    server, _ = trained(named(text), text)

    def state():
        return {"round": server.round, "dumped": dict(server.dump()), "versions": dict(server.versions)}

    found = state()
    for client in found["versions"]:
        for version in (5, 2**16, 2**70):
            changed = {**found, "versions": {**found["versions"], client: version}}
            with pytest.raises(fb.LocalError, match=rf"version of client {client} .*0\.\.4.* round 3; got {version}"):
                server.load(**changed)
    for round in (0, 2, 4, 2**24):
        with pytest.raises(fb.FewbitsError, match=rf"{round + 1} is the newest after round {round}; got "):
            server.load(**{**found, "round": round})
    assert same(state(), found)
    server.load(**found)


@pytest.mark.parametrize("text", ["dense", "intrinsic@dim=5,local=outside,mode=time-varying,epoch=2"])
def test_frames_of_a_broadcast_that_are_of_several_versions_are_refused(text):
    server, _ = trained(named(text), text)
    before = server.dump()
    first, *rest = before["broadcast"]
    later = Frame.parse(first)
    later = bytes(replace(later, header=replace(later.header, sequence=later.header.sequence + 1)))
    with pytest.raises(fb.WireError, match="version"):
        server.load(3, {**before, "broadcast": [later, *rest]}, {})
    assert same(server.dump(), before)


@pytest.mark.parametrize("number", [b"", b"-1", b"x", b"16777216", b"9" * 5000, "\u0663".encode()])
@pytest.mark.parametrize("part", [0, 2])
def test_a_client_refuses_versions_that_no_link_can_name(part, number):
    client = fb.Client(model(), "masked+dense", fb.Key(1))
    client.receive(fb.Server(model(), "masked+dense", fb.Key(0)).bundle(0))
    before = client.dump()
    secrets, *parts = unpack(before)
    found = unpack(secrets)
    assert len(found) == 4 and found[part].isdigit()
    found[part] = number
    with pytest.raises(fb.WireError, match=r"a version of 0\.\.16777215; got"):
        client.load(pack([pack(found), *parts]))
    assert client.dump() == before


def test_an_end_of_a_secure_sum_refuses_steps_without_the_messages_that_they_follow():
    end = ClientEnd(0, 1, fb.Key(0))
    for done in range(2, 6):
        with pytest.raises(fb.WireError, match=f"after {done} steps has other messages"):
            end.load(pack([bytes([done]), b"", b""]))


@pytest.mark.parametrize("text", METHODS)
def test_a_client_refuses_any_part_of_another_kind(text):
    _, client = trained(named(text), text)
    before, vector = client.dump(), [p.clone() for p in client.model.parameters()]
    for part in [*(x for x in WRONG if not isinstance(x, np.ndarray | torch.Tensor)), pack([]), pack([b"x"] * 4)]:
        with pytest.raises(fb.FewbitsError):
            client.load(part)
    parts = list(unpack(before))
    for i, whole in enumerate(parts):
        for part in (b"x", bytes(40), bytes(whole[:-1]), bytes(whole) + b"x"):
            if part and whole:
                with pytest.raises(fb.FewbitsError):
                    client.load(pack([*parts[:i], part, *parts[i + 1 :]]))
                assert client.dump() == before
    assert all(map(torch.equal, vector, client.model.parameters()))


@pytest.mark.parametrize("text", ["choco", "malcom", "deepsqueeze", "dsgd"])
def test_a_node_refuses_any_part_of_another_kind(text):
    ring = topology.ring(3)
    nodes = [fb.learn.Node(model(), gossip_method(text), ring, i, fb.Key(0)) for i in range(3)]
    frames = [node.step(lambda flat: float(flat.params.sub_(0.1).sum() * 0 + 0.1)) for node in nodes]
    for node in nodes:
        for j in node.expected:
            node.receive(j, frames[j])
        node.mix()
    node = nodes[0]
    more = [torch.zeros(3, dtype=torch.uint8), torch.tensor([1.5]), torch.tensor([-1]), torch.tensor([True])]
    more += [torch.tensor([2**62]), torch.tensor([2.0] * 2, dtype=torch.float64)]
    more += [torch.tensor([[x, n]], dtype=torch.float64) for x, n in [(-1, 3), (math.nan, 3), (1, 0), (1, 2.5)]]
    for path in leaves(node.dump()):
        for part in [*WRONG, *more]:
            assert refused(node.load, node.dump, path, part), (path, part)
    for whole in WRONG:
        with pytest.raises(fb.FewbitsError):
            node.load(whole)
    for gone in node.dump():
        with pytest.raises(fb.FewbitsError):
            node.load({name: x for name, x in node.dump().items() if name != gone})
    node.load(node.dump())
