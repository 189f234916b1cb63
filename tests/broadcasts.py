"""One broadcast of every kind of frame, for golden bundles: what each receiver got, and what it held then."""

from collections.abc import Iterator

import torch

from every_codec import TREE, fingerprint, stream
from fewbits.codecs import Delta, Quantize, TopK, chain
from fewbits.coders import Rans
from fewbits.links import Broadcast, Downlink, SharedInit, Subscriber
from fewbits.links.bundle import wrap
from fewbits.links.personal_updates import HeldState
from fewbits.rng import Key

OWN = chain(Quantize(bits=4), Rans())
DOWNLINKS = {
    "sparse": Downlink(Delta(chain(TopK(0.2), Quantize(bits=6), Rans()))),
    "own": Downlink(Delta(chain(Quantize(bits=8), Rans())), personal=OWN),
    "whole": Downlink(chain(Quantize(bits=8), Rans())),
}


def build(key: Key) -> dict[str, torch.Tensor]:
    """The first model, from integer hashes alone."""
    return {name: v * (key.seed + 1) for name, v in next(stream(1)).items()}


def models(count: int) -> Iterator[dict[str, torch.Tensor]]:
    """The model that the seed 1 gives, then one that drifts."""
    x = build(Key(1))
    for step in stream(count):
        yield x
        x = {name: v + 0.125 * step[name] for name, v in x.items()}


def played(name: str, seeded: bool) -> list[tuple[bytes, str]]:
    """(bundle, fingerprint of the value behind it) for receivers that come back after 1, 2 and 4 versions, in turn."""
    down, seed = DOWNLINKS[name], SharedInit(Key(1, ("model",)), build) if seeded else None
    server = Broadcast(down, TREE, Key(0), keep=6, seed=seed)
    followers, held = [Subscriber(down, TREE, build) for _ in range(3)], [HeldState()] * 3
    found = []
    for t, x in enumerate(models(12)):
        server.publish(x)
        for i, every in enumerate((1, 2, 4)):
            if t % every == 0:
                route = server.catch_up(held[i])
                bundle, held[i] = wrap(route.frames, t), route.after
                found.append((bundle, fingerprint(followers[i].receive(bundle))))
    return found


def followed(name: str, bundles: list[bytes]) -> list[str]:
    """The fingerprints that those bundles give receivers of today."""
    followers, found = [Subscriber(DOWNLINKS[name], TREE, build) for _ in range(3)], []
    turns = [i for t in range(12) for i, every in enumerate((1, 2, 4)) if t % every == 0]
    for i, bundle in zip(turns, bundles, strict=True):
        found.append(fingerprint(followers[i].receive(bundle)))
    return found
