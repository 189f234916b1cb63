"""Receivers of broadcasts, written from docs/wire-format.md alone, hold what the library's hold, bit for bit."""

from functools import partial

import pytest
import torch

from every_codec import vector
from fewbits.codecs import (
    Blocks,
    DeadZone,
    Delta,
    Quantize,
    RandK,
    Raw,
    SinceStart,
    Threshold,
    TopK,
    chain,
    route,
)
from fewbits.coders import Rans
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links import Broadcast, Downlink, SharedInit, StartedBroadcast, StartedSubscriber, Subscriber
from fewbits.links.bundle import wrap
from fewbits.links.epochs import FINAL, NOW, WHOLE, EpochBroadcast
from fewbits.links.personal_updates import HeldState
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame
from fewbits.wire.identity import canonical
from second_decoder.broadcast import Holder
from second_decoder.intrinsic import Theta
from second_decoder.started import Started
from second_decoder.text import identity
from test_second_decoder import described, same, values

N = 300
MOVED = route([("plain", Threshold(0.0)), ("*", Raw())])
# (downlink, kinds of frame that come up, and those that come up with a seed besides)
DOWNLINKS = [
    (Downlink(chain(Raw("fp16"))), {""}, set()),
    (Downlink(Delta(TopK(0.05))), {"", "patch of "}, {"seed of "}),
    (Downlink(Delta(chain(TopK(0.004))), personal=chain(Quantize(bits=4), Rans())), {"own "}, {"", "seed of "}),
    (Downlink(chain(Raw()), personal=chain(RandK(0.2), Quantize(bits=4))), {"own "}, {"seed of "}),
    (Downlink(route([("bias", Raw()), ("*", Delta(chain(TopK(0.02))))])), {"", "patch of "}, {"seed of "}),
]


def value(version):
    """Few entries move, but at every third version all do."""
    moved = torch.from_numpy(vector(Key(version), N)) * (torch.arange(N) % 50 == version % 4 if version % 3 else 1.0)
    return {"weight": torch.from_numpy(vector(Key(0), N)) + moved, "bias": torch.full((4,), float(version))}


class Pair:
    """A subscriber of the library and one of the page, of the same broadcast."""

    def __init__(self, server, down, spec, build):
        self.server, self.held, self.subscriber = server, HeldState(), Subscriber(down, spec, build)
        public, personal = canonical(down.public), canonical(down.personal) if down.personal else ""
        texts = {"": public, "seed of ": public, "patch of ": public} | ({"own ": personal} if personal else {})
        found = {word: identity(text, canonical(spec), word) for word, text in texts.items()}
        self.hashes = {codec: word for word, (codec, _) in found.items()}
        first, alone = found[""][1], found["own "][1] if personal else None
        self.reader = Holder(public, personal, described(spec), self.hashes, first, alone, lambda key: values(value(1)))

    def follow(self):
        """Take the shortest bundle; the kinds of frame in it."""
        update = self.server.catch_up(self.held)
        bundle, self.held = wrap(list(update.frames), 70_000), update.after
        expected = self.subscriber.receive(bundle)
        found, ack = self.reader.receive(bundle)
        assert all(map(same, found, values(expected)))
        state = self.reader.version, self.reader.alone, ack
        assert state == (self.subscriber.version, self.subscriber.personal, 70_000 % 2**16)
        return {self.hashes[Frame.parse(frame).header.codec] for frame in update.frames}


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(("down", "kinds", "more"), DOWNLINKS, ids=[repr(down) for down, *_ in DOWNLINKS])
def test_bundles_of_every_kind(down, kinds, more, seeded):
    spec, build = Spec.of(value(1)), (lambda key: value(1)) if seeded else None
    server = Broadcast(down, spec, Key(0), seed=SharedInit(Key(3), build) if build else None)
    steady, seldom = (Pair(server, down, spec, build) for _ in range(2))
    found = set()
    for version in range(1, 13):
        server.publish(value(version))
        pairs = [steady, Pair(server, down, spec, build), *([seldom] if version in (1, 4, 8, 12) else [])]
        for pair in pairs:
            found |= pair.follow()
        found |= steady.follow()  # up to date: no frame, or the way back to the public value
    assert found >= kinds | (more if seeded else set())


SINCE = route([("buffer:*", SinceStart()), ("*", Raw("fp16"))])
STARTED = [  # (downlink, vectors of s, numbers of a buffer)
    (Downlink(Raw()), 1, 0),
    (Downlink(Delta(Blocks(DeadZone(), 3))), 3, 0),
    (Downlink(SINCE), 1, 30),
    (Downlink(SINCE, personal=route([("buffer:*", Delta(Threshold(0.0))), ("*", Delta(Quantize(bits=4)))])), 1, 30),
]


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(("down", "count", "numbers"), STARTED, ids=[repr(down) for down, *_ in STARTED])
def test_downlinks_with_a_start(down, count, numbers, seeded):
    theta0 = torch.from_numpy(vector(Key(5), 50))

    def model(version):
        moved = torch.from_numpy(vector(Key(version), 4 * count))
        moved[: 4 * (version % count)] = 0
        found = {"coordinates": moved * min(1, version - 1)}
        if numbers:
            found["buffer:table"] = torch.from_numpy(vector(Key(0), numbers))
            found["buffer:table"][: version // 2] = -0.0
        return found

    spec, start = Spec.of(model(1)), {"theta0 of x": theta0} | {n: x for n, x in model(1).items() if "buffer" in n}
    first, of_start = SharedInit(Key(3), lambda key: model(1)), SharedInit(Key(3), lambda key: start)
    seeds = {"seed": first, "start_seed": of_start} if seeded else {}
    server = StartedBroadcast(down, spec, Key(0), start, **seeds)
    public, personal = canonical(down.public), canonical(down.personal) if down.personal else ""
    texts = {"": public, "seed of ": public, "patch of ": public} | ({"own ": personal} if personal else {})
    found = {word: identity(text, canonical(spec), word) for word, text in texts.items()}
    beside = f',["buffer:table",tensor(shape=[{numbers}])]' if numbers else ""
    raw, tree = "flat(codec=chain(coder=fixed(),transforms=[raw()]))", f'["theta0 of x",tensor(shape=[50])]{beside}'
    begin = {identity(raw, f"tree(entries=[{tree}])", word)[0]: bool(word) for word in ("", "seed of ")}
    builds = (first.build, of_start.build) if seeded else (None, None)

    def new():
        hashes = {codec: word for word, (codec, _) in found.items()}
        alone = found["own "][1] if personal else None
        holder = Holder(public, personal, described(spec), hashes, found[""][1], alone, lambda key: values(model(1)))
        reader = Started(holder, described(Spec.of(start)), begin, lambda key: {n: x.numpy() for n, x in start.items()})
        return reader, StartedSubscriber(down, spec, Spec.of(start), *builds)

    steady, seldom = [*new(), HeldState()], [*new(), HeldState()]
    for version in range(1, 8):
        server.publish(model(version))
        for pair in [steady, [*new(), HeldState()], *([seldom] if version in (2, 6) else [])]:
            reader, ours, held = pair
            update = server.catch_up(held)
            pair[2] = update.after
            bundle = wrap(list(update.frames), 3)
            value, _ = reader.receive(bundle)
            assert all(map(same, value, values(ours.receive(bundle))))
            assert all(same(reader.start[name], x.numpy()) for name, x in ours.start.items())
            assert update.after.frames or all(map(same, value, values(server.value)))


@pytest.mark.parametrize("mode", ["static", "time-varying", "k-subspace"])
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("plain", [0, 9])
def test_intrinsic_downlinks(mode, seeded, plain):
    size, space = 50, IntrinsicSpace(dim=3, mode=mode, k=2, epoch=2, seed=11)
    start = torch.from_numpy(vector(Key(5), size))
    seed = SharedInit(Key(3).fold("start"), lambda key: {WHOLE: start}) if seeded else None
    server = EpochBroadcast(space, Spec.of(start), Key(0), seed=seed, plain=plain)
    server.publish({WHOLE: start})
    raw, sizes = (
        "flat(codec=chain(coder=fixed(),transforms=[raw()]))",
        {WHOLE: size, FINAL: space.numel, NOW: space.numel},
    )
    beside = f',["plain",tensor(shape=[{plain}])]' if plain else ""
    more = dict.fromkeys((FINAL, NOW), beside) | {WHOLE: ""}
    specs = {name: f'tree(entries=[["{name}",tensor(shape=[{n}])]{more[name]}])' for name, n in sizes.items()}
    hashes = {identity(canonical(MOVED) if more[name] else raw, text)[0]: name for name, text in specs.items()}
    hashes[identity(raw, specs[WHOLE], "seed of ")[0]] = "seed"
    new = partial(
        Theta, size, 3, space.subspaces, "fastfood", "orthonormal", 11, hashes, lambda key: start.numpy(), plain
    )
    steady, seldom = new(), new()
    for version in range(1, 8):
        if version > 1:
            x = {"plain": torch.from_numpy(vector(Key(version).fold("plain"), plain))} if plain else {}
            server.publish({NOW: torch.from_numpy(vector(Key(version), space.numel))} | x)
        readers = [steady, new(), *([seldom] if version in (1, 4, 7) else [])]
        for reader in readers:
            theta = reader.receive(server.bundle(reader.version or None))
            assert same(theta, server.value[WHOLE].numpy()) and reader.version == version
