"""Receivers of broadcasts, written from docs/wire-format.md alone, hold what the library's hold, bit for bit."""

from functools import partial

import pytest
import torch

from every_codec import vector
from fewbits.codecs import Blocks, DeadZone, Delta, Quantize, RandK, Raw, Threshold, TopK, chain, route
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
from second_decoder.inside import Inside
from second_decoder.intrinsic import Theta
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


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(("down", "count"), [(Downlink(Raw()), 1), (Downlink(Delta(Blocks(DeadZone(), 3))), 3)])
def test_downlinks_with_a_start(down, count, seeded):
    size, start, spec = 50, torch.from_numpy(vector(Key(5), 50)), Spec.of({"coordinates": torch.zeros(4 * count)})

    def model(version):
        moved = torch.from_numpy(vector(Key(version), 4 * count))
        moved[: 4 * (version % count)] = 0
        return {"coordinates": moved * min(1, version - 1)}

    first, of_start = SharedInit(Key(3), lambda key: model(1)), SharedInit(Key(3), lambda key: start)
    server = StartedBroadcast(
        down,
        spec,
        Key(0),
        start,
        seed=first if seeded else None,
        start_seed=of_start if seeded else None,
        space=" of x",
    )
    public, text = canonical(down.public), f'tree(entries=[["theta0 of x",tensor(shape=[{size}])]])'
    found = {word: identity(public, canonical(spec), word) for word in ("", "seed of ", "patch of ")}
    raw = "flat(codec=chain(coder=fixed(),transforms=[raw()]))"
    begin = {identity(raw, text)[0]: False, identity(raw, text, "seed of ")[0]: True}

    def new():
        hashes = {codec: word for word, (codec, _) in found.items()}
        holder = Holder(public, "", described(spec), hashes, found[""][1], None, lambda key: values(model(1)))
        return Inside(holder, size, begin, lambda key: start.numpy())

    ours, steady = StartedSubscriber(down, spec, size, first.build, of_start.build, " of x"), new()
    for version in range(1, 8):
        server.publish(model(version))
        late = new()
        for reader in (steady, late):
            bundle = server.bundle(reader.holder.version or None)
            (s,), _ = reader.receive(bundle)
            assert same(reader.start, start.numpy()) and same(s, server.value["coordinates"].numpy())
        ours.receive(server.bundle(ours.version or None))
        assert same(ours.value["coordinates"].numpy(), s) and same(ours.start.numpy(), late.start)


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
