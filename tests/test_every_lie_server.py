"""In a loop by hand, no lie ends a run: neither a client's to the server, nor a server's to a client."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.links.bundle import leb, pack, unpack, wrap
from fewbits.methods import named
from fewbits.testing.ends import restamp
from fewbits.wire import Frame
from fewbits.wire.frame import HEADER_BYTES

CLIENTS, LIAR, ROUNDS, WEIGHT = 5, 2, 3, 10.0


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


class Loop:
    """A server and its clients; the liar may change its update, its frame and its weight."""

    def __init__(self, method, value=None, frame=None, weight=WEIGHT, absent=99):
        self.method = named(method).for_round_size(CLIENTS)
        total = WEIGHT * CLIENTS
        self.server = fb.Server(build(), self.method, fb.Key(0), total_weight=total)
        self.clients = [fb.Client(build(), self.method, fb.Key(10 + i), i) for i in range(CLIENTS)]
        self.value, self.frame, self.weight, self.absent = value, frame, weight, absent
        self.first = b""  # the liar's first frame
        self.others = b""  # the last frame of another client

    def play(self, rounds=ROUNDS):
        for _ in range(rounds):
            for i, client in enumerate(self.clients):
                client.receive(self.server.bundle(i))
                self._train(client, i)
                if i == LIAR:
                    self._lie(client)
                    continue
                self.others = client.reply(steps=1, lr=0.1)
                assert self.server.accept(i, self.others, WEIGHT) is not None, self.server.reasons
            self.server.step()
        return self

    def _train(self, client, i):
        draws = torch.Generator().manual_seed(100 * self.server.round + i)
        with torch.no_grad():
            for p in client.model.parameters():
                step = 0.01 + 0.005 * torch.randn(p.shape, generator=draws)
                p.sub_(step if i != LIAR or self.value is None else self.value(p, step))

    def _lie(self, client):
        if self.server.round >= self.absent:
            return
        try:
            frame = client.reply(steps=1, lr=0.1)
        except fb.LocalError:
            return  # an honest library does not even say it
        frame = frame if self.frame is None else self.frame(self, frame)
        self.server.accept(LIAR, frame, self.weight)

    @property
    def theta(self):
        return self.server.flat.vector().clone()


METHODS = ["dense", "topk@fraction=0.3", "lbgm+topk@fraction=0.5", "fedadam", "median", "scaffold"]


@pytest.fixture(scope="module")
def absent():
    """The models without the liar."""
    return {method: Loop(method, absent=0).play().theta for method in METHODS}


def check(loop, absent, method, rejected=True):
    assert set(loop.server.rejected) == ({LIAR} if rejected else set())
    if rejected:
        assert loop.server.rejected == {LIAR: ROUNDS} and loop.server.reasons[LIAR]
    assert loop.server.round == ROUNDS and torch.equal(loop.theta, absent[method])


def filled(value):
    return lambda p, step: torch.full_like(p, value)


def times(factor):
    return lambda p, step: factor * step


# What the liar subtracts from its parameters; a codec may refuse to write it at all.
VALUES = {
    "NaN": filled(math.nan),
    "inf": filled(-math.inf),
    "4.7e36": filled(4.7e36),
    "1e14": filled(1e14),
    "x1000": times(1000.0),
    "-x1000": times(-1000.0),
    "x19": times(19.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lie", VALUES)
def test_absurd_updates_are_left_out_and_the_model_is_that_of_the_others(lie, method, absent):
    loop = Loop(method, VALUES[lie]).play()
    check(loop, absent, method, rejected=lie not in ("NaN", "inf"))


@pytest.mark.parametrize("lie", ["4.7e36", "1e25"])
@pytest.mark.parametrize("method", ["dense", "fedadam", "feddyn", "scaffold", "bounded@times=0"])
def test_absurd_values_are_left_out_where_nothing_is_known_of_usual_ones(lie, method):
    """One client alone has no median to be compared with."""
    server, client = fb.Server(build(), method, fb.Key(0), total_weight=1.0), fb.Client(build(), method, fb.Key(1))
    before = server.flat.vector().clone()
    client.receive(server.bundle(0))
    with torch.no_grad():
        client.model[0].bias.fill_(float(lie))
    assert server.accept(0, client.reply(steps=1, lr=0.1), 1.0) is None
    assert "values up to" in server.reasons[0] and "beyond 1e+15 are left out" in server.reasons[0]
    server.step()
    assert torch.equal(server.flat.vector(), before)


@pytest.mark.parametrize("rule", ["median", "trimmed@trim=0.2", "krum", "multikrum", "geomedian"])
def test_a_flipped_sign_hardly_moves_a_robust_step(rule):
    start = Loop(rule).theta
    honest, attacked = Loop(rule).play().theta - start, Loop(rule, times(-9.0)).play().theta - start
    assert float(attacked @ honest) > 0.5 * float(honest @ honest)


def payload(change):
    return lambda loop, frame: restamp(frame, change(Frame.parse(frame).payload))


def stamped(**header):
    return lambda loop, frame: restamp(frame, **header)


def of_nan(data):
    return b"\x7f\xc0\x00\x00\x00\x00\xc0\x7f" * (len(data) // 8) + b"\xff" * (len(data) % 8)


def replayed(loop, frame):
    loop.first = loop.first or frame
    return loop.first


def foreign(loop, frame):
    return fb.Sender(fb.Raw(), fb.Spec((7,)), fb.Key(0)).send(torch.ones(7))


FRAMES = {
    "nothing": lambda loop, frame: b"",
    "one byte": lambda loop, frame: b"\xff",
    "zeros": lambda loop, frame: bytes(64),
    "random bytes": lambda loop, frame: np.random.default_rng(0).bytes(len(frame)),
    "another program's": lambda loop, frame: b"GET / HTTP/1.1\r\n",
    "cut": lambda loop, frame: frame[: len(frame) // 2],
    "a header alone": lambda loop, frame: frame[:HEADER_BYTES],
    "one byte more": lambda loop, frame: frame + b"\0",
    "twice": lambda loop, frame: frame * 2,
    "a flipped bit": lambda loop, frame: bytes([*frame[:-5], frame[-5] ^ 1, *frame[-4:]]),
    "another model's": foreign,
    "a bundle": lambda loop, frame: loop.server.bundle(LIAR),
    "an end of a link": lambda loop, frame: loop.server.receiver(LIAR).dump(),
    "another history": lambda loop, frame: restamp(frame, history=Frame.parse(frame).header.history ^ 1),
    "another codec": stamped(codec=1),
    "a snapshot": stamped(snapshot=True),
    "a late one": stamped(sequence=9, key=False),
    "the last of all": stamped(sequence=2**24 - 1, key=True),
    "a version to come": stamped(ack=4000),
    "no payload": payload(lambda data: b""),
    "half a payload": payload(lambda data: data[: len(data) // 2]),
    "two payloads": payload(lambda data: bytes(data) * 2),
    "1 MB of ones": payload(lambda data: b"\xff" * 2**20),
    "NaN in the payload": payload(of_nan),
}


@pytest.mark.parametrize("method", ["dense", "topk@fraction=0.3", "lbgm+topk@fraction=0.5"])
@pytest.mark.parametrize("lie", FRAMES)
def test_what_is_no_frame_is_counted_and_named_and_moves_nothing(lie, method, absent):
    check(Loop(method, frame=FRAMES[lie]).play(), absent, method)


def test_a_frame_that_comes_again_is_counted_and_moves_nothing():
    for method in METHODS:
        loop = Loop(method, frame=replayed).play()
        assert loop.server.rejected == {LIAR: ROUNDS - 1} and torch.equal(
            loop.theta, Loop(method, absent=1).play().theta
        )


def test_a_frame_of_another_client_ends_nothing():
    for method in METHODS:
        loop = Loop(method, frame=lambda loop, frame: loop.others).play()
        assert set(loop.server.rejected) <= {LIAR} and bool(torch.isfinite(loop.theta).all())


WEIGHTS = [0, -1.0, math.nan, math.inf, -math.inf, 1e308, 1e-300, 5e-324, 1e9, True, "1", b"1", None, [], 10**400, 1j]


@pytest.mark.parametrize("weight", [*WEIGHTS, torch.tensor(1.0), np.float64("nan"), np.array([1.0])], ids=repr)
def test_a_weight_that_no_client_has_is_counted_and_moves_nothing(weight, absent):
    for method in ("dense", "median"):
        check(Loop(method, weight=weight).play(), absent, method)


# A server that lies to a client


DOWN = ["dense", "topk", "topk@down=sparse", "topk@down=own8", "topk@down=changes", "scaffold@down=delta8"]
EPOCHS = ["intrinsic@dim=8,mode=time-varying,epoch=2"]


def bundles(good, down):
    """Lies that a server may send in place of a bundle."""
    frames = unpack(good) if good[0] else []
    headers = product((0, 1, 2, 2**16, 2**24 - 1), ({"key": True}, {"key": False, "snapshot": True}, {"history": 1}))
    yield from (wrap([restamp(x, sequence=n, **more) for x in frames], 1) for n, more in headers)
    yield from (wrap([restamp(x, change(Frame.parse(x).payload)) for x in frames], 1) for change in PAYLOADS)
    yield from (pack([]) + leb(ack) for ack in (2**15, 2**16 - 1, 2**16))
    yield from (wrap(frames * 2, 0), wrap(frames[::-1], 0), pack(frames)[:-1], good + b"\0", good[:1], b"", b"\xff" * 6)
    yield leb(2**16) + bytes(2**16)
    yield b"\x01\xff\xff\xff\xff\x0f"  # a frame of 4 GB
    yield down


PAYLOADS = [of_nan, lambda data: b"\xff" * len(data), lambda data: bytes(len(data)), lambda data: bytes(data) * 2]


@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("method", DOWN + EPOCHS)
def test_a_client_bears_whatever_a_server_sends_as_a_bundle(method, known):
    make = build if method in DOWN else lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    server, client = fb.Server(make(), method, fb.Key(0), total_weight=10.0), fb.Client(make(), method, fb.Key(1))
    for _ in range(known):
        client.receive(server.bundle(0))
        assert server.accept(0, client.reply(steps=1, lr=0.1), WEIGHT) is not None
        server.step()
    good, before, refused = server.bundle(0), client.dump(), 0
    for lie in bundles(good, client.dump()):
        try:
            client.receive(lie)
            client.reply(steps=1, lr=0.1)
        except fb.FewbitsError:
            refused += 1
        assert all(bool(torch.isfinite(x).all()) for x in client.model.state_dict().values())
        client.load(before)
    assert refused > 10
    client.receive(good)
    assert server.accept(0, client.reply(steps=1, lr=0.1), WEIGHT) is not None


# Lies around masks


def agree(server, clients, stage, lie):
    """The round's keys and shares; a client whose message is refused is out."""
    here, secure = list(range(CLIENTS)), server.secure

    def send(name, i, message):
        try:
            getattr(secure, name)(i, lie(i, message) if name == stage else message)
        except fb.WireError:
            here.remove(i)

    for i in here[:]:
        clients[i].receive(server.bundle(i))
        send("advertised", i, clients[i].secure.advertise())
    for i in here[:]:
        send("shared", i, clients[i].secure.share(secure.roster()))
    for i in here:
        clients[i].secure.open(secure.delivery(i))
    for i in here:
        with torch.no_grad():
            for p in clients[i].model.parameters():
                p.sub_(0.01 * (i + 1))
        frame = clients[i].reply()
        server.accept(i, lie(i, frame) if stage == "words" else frame, WEIGHT)
    for i in list(secure.arrived):
        send("revealed", i, clients[i].secure.reveal(secure.survivors()))
    server.step()
    return here


MESSAGES = {
    "nothing": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "a flipped bit": lambda data: bytes([*data[:-6], data[-6] ^ 1, *data[-5:]]),
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: np.random.default_rng(1).bytes(len(data)),
    "1 MB": lambda data: bytes(2**20),
}


@pytest.mark.parametrize("stage", ["advertised", "shared", "words", "revealed"])
@pytest.mark.parametrize("lie", MESSAGES)
def test_under_masks_a_liar_is_one_who_dropped_out(lie, stage):
    found = []
    for spoil in (MESSAGES[lie], lambda data: b"dropped out"):
        method = named("masked").for_round_size(CLIENTS)
        server = fb.Server(build(), method, fb.Key(0), total_weight=WEIGHT * CLIENTS)
        clients = [fb.Client(build(), method, fb.Key(10 + i), i) for i in range(CLIENTS)]
        server.sample(CLIENTS, CLIENTS)
        agree(server, clients, stage, lambda i, data, spoil=spoil: spoil(data) if i == LIAR else data)
        assert not server.void and server.round == 1
        found.append(server.flat.vector().clone())
    assert torch.equal(*found) and not torch.equal(found[0], Loop("masked").theta)
