"""compile_kernels: pass a few random numbers through the codecs of a run, so that its kernels are compiled or loaded.

Compilation takes seconds. An engine calls this before its clock starts and before it forks: then no method is charged
for it, and no worker compiles again.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fewbits import kernels
from fewbits.codecs import Lift, TreeTotal
from fewbits.coders.support import exercise_forms
from fewbits.errors import LocalError
from fewbits.federated.exchange import Exchange
from fewbits.learn.intrinsic_space import SENT, IntrinsicSpace
from fewbits.learn.one_thread import one_thread
from fewbits.learn.optimizers.base import ServerOptimizer
from fewbits.links import Receiver, Sender
from fewbits.links.personal_updates import HeldState
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

MOST = 2**16  # numbers of the largest tensor; half as many are still long for every kernel
FEW = 2**10  # numbers of the other tensors of a large model
KEY = Key(0)  # of ends that nobody else sees
SHARE = 0.05  # of entries that change in some rounds
GOLOMB = f"{kernels.__name__}.golomb"  # imported by those that use it
ROUNDS = 3  # a first frame, one that can be recycled, and one that cannot


def compile_kernels(exchange: Exchange) -> None:
    """Send and receive a few frames in both directions, between ends of their own: nothing of the run changes.

    It takes milliseconds when the kernels are in memory already.
    """
    with one_thread():
        total = compile_link(exchange.up, exchange.sent)
        _compile_optimizer(exchange.method.server_optimizer, total)
        if exchange.method.space is None:
            _compile_downlink(exchange)
        moved = exchange.method.space or exchange.method.inside
        if moved is not None:
            _compile_space(dict(exchange.start).get(exchange.theta0, exchange.public).numel, moved)
        if exchange.method.privacy is not None:
            x = np.ones(1, np.float32)
            kernels.dots.products(x, x)  # a norm, for clipping
        _compile_forms()


def compile_lift(codec: Lift, spec: TreeSpec) -> None:
    """The same for one direction alone, as nodes without a server have it."""
    with one_thread():
        compile_link(codec, spec)
        _compile_forms()


def compile_link(codec: Lift, spec: TreeSpec, common: Key = KEY) -> TreeTotal:
    """One link and its sum, with a smaller spec where the codec takes one."""
    small = _smaller(spec, codec)
    sender, receiver, total = Sender(codec, small, KEY, common), Receiver(codec, small, common), TreeTotal(codec, small)
    for round in range(ROUNDS):
        frame = sender.send(_values(small, max(0, round - 1)))
        sender.commit()
        total.add(receiver.receive_partial(frame), 1.0)
    total.value()
    Receiver(codec, small, common).receive(_first(codec, small, common))
    sender.dump()
    receiver.load(receiver.dump())
    return total


def _compile_forms() -> None:
    """A stage may have sent supports, whose form depends on the values."""
    if GOLOMB in sys.modules:
        exercise_forms()


def _compile_optimizer(optimizer: ServerOptimizer, total: TreeTotal) -> None:
    """A step on a sum as messages carry it."""
    if optimizer.carrier is not None:
        numel = total.groups[0].spec.numel
        optimizer.step(torch.zeros(numel), total.carried[0], optimizer.init(numel))


def _first(codec: Lift, spec: TreeSpec, common: Key) -> bytes:
    return Sender(codec, spec, KEY, common).send(_values(spec, 0))


def _compile_downlink(exchange: Exchange) -> None:
    """A publisher, a subscriber that follows it, and one that misses versions."""
    small = replace(exchange, public=_smaller(exchange.public, exchange.down.public), start=TreeSpec(()))
    publisher, near, far = small.publisher(KEY), small.subscriber(), small.subscriber()
    now = _values(small.public, 0)
    for round in range(1, 1 + ROUNDS):
        publisher.publish(now)
        near.receive(publisher.bundle(near.version or None))
        if round == 1:
            far.receive(publisher.bundle(None))
        now = {name: now[name] + x for name, x in _values(small.public, round).items()}
    far.receive(publisher.bundle(far.version))
    small.subscriber().receive(publisher.bundle(None))
    if publisher.personal is not None:
        publisher.catch_up(HeldState(publisher.version - 1))


def _compile_space(numel: int, space: IntrinsicSpace) -> None:
    """The maps into a subspace and out of it, of a smaller model."""
    size = min(numel, max(MOST, 2 * space.dim))
    x = _values(TreeSpec(((SENT, Spec((size,))),)), 0)[SENT]
    space.matrix(size, 0, 0).project(x)
    space.expand(size, 0, x[:1].expand(space.numel).contiguous())


def _smaller(spec: TreeSpec, codec: Lift) -> TreeSpec:
    """The spec with few numbers, if the codec takes it; else the spec itself. Its largest tensor stays the largest."""
    if spec.numel <= MOST:
        return spec
    largest = max(spec, key=lambda entry: entry[1].numel)[0]
    small = TreeSpec(tuple((name, _halved(leaf, MOST if name == largest else FEW)) for name, leaf in spec))
    try:
        codec.check(small)
    except LocalError:
        return spec
    return small


def _halved(leaf: Spec, most: int) -> Spec:
    """The longest side of a tensor halved until it has at most so many numbers."""
    while leaf.numel > most:
        longest = leaf.shape.index(max(leaf.shape))
        shape = (*leaf.shape[:longest], (leaf.shape[longest] + 1) // 2, *leaf.shape[longest + 1 :])
        leaf = replace(leaf, shape=shape)
    return leaf


def _values(spec: TreeSpec, number: int) -> dict[str, Tensor]:
    """Gaussian numbers, most of them zero where `number` is odd; whole ones for words under masks."""
    generator = KEY.fold("compile", number).generator()
    drawn: dict[str, Tensor] = {}
    for name, leaf in spec:
        x = torch.randn(leaf.shape, generator=generator)
        x = x * (torch.rand(leaf.shape, generator=generator) < SHARE) if number % 2 else x
        drawn[name] = x if leaf.dtype == "float32" else x.abs().round().to(leaf.torch_dtype)
    return drawn
