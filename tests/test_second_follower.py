"""Receivers of broadcasts, written from docs/wire-format.md alone, hold what the library's hold, bit for bit."""

from functools import partial

import pytest
import torch

from every_codec import vector
from fewbits.codecs import Delta, Quantize, RandK, Raw, TopK, chain, route
from fewbits.coders import Rans
from fewbits.learn.space import Space
from fewbits.link import Broadcast, Downlink, Follower, Seed
from fewbits.link.bundle import wrap
from fewbits.link.epochs import WHOLE, EpochBroadcast
from fewbits.link.identity import OWN, codec_hash, first_history
from fewbits.link.own import Recipe
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame
from second_decoder.broadcast import Holder
from second_decoder.intrinsic import Theta
from test_second_decoder import described, same, values

N = 300
# (downlink, kinds of frame that come up, and those that come up with a seed besides)
DOWNLINKS = [
    (Downlink(chain(Raw("fp16"))), {""}, set()),
    (Downlink(Delta(TopK(0.05))), {"", "patch of "}, {"seed of "}),
    (Downlink(Delta(chain(TopK(0.004))), own=chain(Quantize(bits=4), Rans())), {"own "}, {"", "seed of "}),
    (Downlink(chain(Raw()), own=chain(RandK(0.2), Quantize(bits=4))), {"own "}, {"seed of "}),
    (Downlink(route([("bias", Raw()), ("*", Delta(chain(TopK(0.02))))])), {"", "patch of "}, {"seed of "}),
]


def value(version):
    """Few entries move, but at every third version all do."""
    moved = torch.from_numpy(vector(Key(version), N)) * (torch.arange(N) % 50 == version % 4 if version % 3 else 1.0)
    return {"weight": torch.from_numpy(vector(Key(0), N)) + moved, "bias": torch.full((4,), float(version))}


class Pair:
    """A follower of the library and one of the page, of the same broadcast."""

    def __init__(self, server, down, spec, build):
        self.server, self.recipe, self.follower = server, Recipe(), Follower(down, spec, build)
        self.hashes = {codec_hash(lift, own, kind): kind for kind, lift, own in server.kinds}
        first, own_first = first_history(server.codec, spec), first_history(down.own, spec, OWN) if down.own else None
        texts = repr(down.public), repr(down.own) if down.own else ""
        self.reader = Holder(*texts, described(spec), self.hashes, first, own_first, lambda key: values(value(1)))

    def follow(self):
        """Take the shortest bundle; the kinds of frame in it."""
        way = self.server.route(self.recipe)
        bundle, self.recipe = wrap(list(way.frames), 70_000), way.after
        expected = self.follower.receive(bundle)
        found, ack = self.reader.receive(bundle)
        assert all(map(same, found, values(expected)))
        state = self.reader.version, self.reader.mine, ack
        assert state == (self.follower.version, self.follower.own, 70_000 % 2**16)
        return {self.hashes[Frame.parse(frame).header.codec] for frame in way.frames}


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(("down", "kinds", "more"), DOWNLINKS, ids=[repr(down) for down, *_ in DOWNLINKS])
def test_bundles_of_every_kind(down, kinds, more, seeded):
    spec, build = Spec.of(value(1)), (lambda key: value(1)) if seeded else None
    server = Broadcast(down, spec, Key(0), seed=Seed(Key(3), build) if build else None)
    steady, seldom = (Pair(server, down, spec, build) for _ in range(2))
    found = set()
    for version in range(1, 13):
        server.publish(value(version))
        pairs = [steady, Pair(server, down, spec, build), *([seldom] if version in (1, 4, 8, 12) else [])]
        for pair in pairs:
            found |= pair.follow()
        found |= steady.follow()  # up to date: no frame, or the way back to the public value
    assert found >= kinds | (more if seeded else set())


@pytest.mark.parametrize("mode", ["static", "time-varying", "k-subspace"])
@pytest.mark.parametrize("seeded", [False, True])
def test_intrinsic_downlinks(mode, seeded):
    size, space = 50, Space(dim=3, mode=mode, k=2, epoch=2, seed=11)
    start = torch.from_numpy(vector(Key(5), size))
    seed = Seed(Key(3).fold("start"), lambda key: {WHOLE: start}) if seeded else None
    server = EpochBroadcast(start, space.numel, partial(space.expand, size), Key(0), seed=seed)
    hashes = {
        codec_hash(codec, spec, kind): "seed" if kind else spec.entries[0][0] for kind, codec, spec in server.kinds
    }
    new = partial(Theta, size, 3, space.subspaces, "fastfood", "orthonormal", 11, hashes, lambda key: start.numpy())
    steady, seldom = new(), new()
    for version in range(1, 8):
        if version > 1:
            server.publish(torch.from_numpy(vector(Key(version), space.numel)), space.epoch_of(version))
        readers = [steady, new(), *([seldom] if version in (1, 4, 7) else [])]
        for reader in readers:
            theta = reader.receive(server.bundle(reader.version or None))
            assert same(theta, server.value[WHOLE].numpy()) and reader.version == version
