"""Exchange: what travels between server and clients under a method, and with which codecs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from fewbits.codecs import Blocks, Delta, Flat, Lift, TreeTotal
from fewbits.errors import LocalError
from fewbits.factor.coordinates import coordinates
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.learn.unit_vectors import vector_names
from fewbits.links import (
    Broadcast,
    Downlink,
    EpochBroadcast,
    EpochSubscriber,
    Publisher,
    Receiver,
    Sender,
    SharedInit,
    StartedBroadcast,
    StartedSubscriber,
    Subscriber,
    Subscription,
)
from fewbits.links.epoch_frames import WHOLE
from fewbits.links.started import since_start
from fewbits.privacy.pairwise_masking import MaskedTotal
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire.identity import canonical

FEW = 4  # buffers, of which a sentence has the names
LEAST = 0.1  # share of the longest difference of a vector of s from which another travels down
Build = Callable[[Key], nn.Module]  # makes the initial model from a key, the same at every party


@dataclass(frozen=True, eq=False)
class Exchange:
    """Specs and codecs, derived once from a model and a method.

    Clients receive `public`, the server sums `update`, and a frame up holds `sent`. All three are equal, except that a
    subspace shortens the parameters' part of the update and masks hide it.
    """

    method: Method
    public: TreeSpec  # all that travels of the model, then the objective's vectors
    update: TreeSpec  # what a client's training changed: `public`; in a subspace A^T of it, and buffers
    sent: TreeSpec  # what a frame up holds: `update`, or masked words of it
    up: Lift
    down: Downlink
    common: Key  # everybody's: the factors of a new model, a round's random supports
    start: TreeSpec = field(default_factory=lambda: TreeSpec(()))  # what clients get at first contact alone
    _starts: dict[tuple[Build, Key], dict[str, Tensor]] = field(default_factory=dict)  # as they were made from keys

    @staticmethod
    def of(model: FlatModel, method: Method, common: Key = Key(0)) -> Exchange:
        """LocalError when the method's parts do not fit this model or each other."""
        public = shared_values.spec(model, method.objective.server_vectors)
        update = public if method.space is None else method.space.spec(model, method.objective)
        sent = update if method.masking is None else method.masking.spec(update)
        # Under noise nothing stays zero, and the uplink must be lossless.
        buffers = shared_values.CHANGED if method.privacy is None else shared_values.WHOLE
        up = shared_values.with_buffers(
            _up(method), sent, buffers if method.masking is None else method.masking.up_buffers
        )
        up.check(sent)
        if method.privacy is not None:
            _check_noise(model)
            method.privacy.check(method.masking is not None or up.contract(update).lossless)
        down = shared_values.downlink(_down(method), public)
        found = Exchange(method, public, update, sent, up, down, common)
        return found if method.space is not None else replace(found, start=found._start_of(model))

    def of_round(self, round: int) -> Key:
        """The common key of the frames that answer version `round` of the model."""
        return _of_round(self.common, round)

    def sender(self, key: Key) -> Sender:
        """A client's end of the uplink; `key` is the client's."""
        return Sender(self.up, self.sent, key)

    def receiver(self) -> Receiver:
        """The server's end of one client's uplink."""
        return Receiver(self.up, self.sent)

    def totals(self) -> list[TreeTotal | MaskedTotal]:
        """Empty sums of a round, one per subspace."""
        masking, count = self.method.masking, self.method.space.subspaces if self.method.space else 1
        one = partial(TreeTotal, self.up) if masking is None else partial(MaskedTotal, masking)
        return [one(self.update) for _ in range(count)]

    def publisher(self, key: Key, init: SharedInit | None = None, model: FlatModel | None = None) -> Publisher:
        """The server's end of the downlink of `model`; `init` is what made it."""
        space, first = self.method.space, init and SharedInit(init.key, self._initial(init.build))
        if model is not None and len(self.start):
            made = init and SharedInit(init.key, self._start(init.build))
            return StartedBroadcast(self.down, self.public, key, self._first(model), seed=first, start_seed=made)
        if space is None:
            return Broadcast(self.down, self.public, key, seed=first)
        return EpochBroadcast(space, self.public, key, seed=first, plain=self._buffers)

    def subscriber(self, build: Build | None = None) -> Subscription:
        """A client's end of the downlink; `build` makes the initial model, where the server has a SharedInit."""
        space, first = self.method.space, None if build is None else self._initial(build)
        if len(self.start):
            return StartedSubscriber(self.down, self.public, self.start, first, build and self._start(build))
        if space is None:
            return Subscriber(self.down, self.public, first)
        return EpochSubscriber(space, self.public, first, self._buffers)

    @property
    def theta0(self) -> str:
        """The name of theta0 in the start; it has the subspace, so ends of other matrices refuse each other."""
        inside = self.method.inside
        return "theta0" if inside is None else f"theta0 of {canonical(inside)}"

    def _first(self, model: FlatModel) -> dict[str, Tensor]:
        """The start, of a model as it is at first."""
        inside = coordinates(model.module)
        buffers = {name: x.clone() for name, x in shared_values.values(model).items() if name in dict(self.start)}
        return buffers if inside is None else {self.theta0: inside.start} | buffers

    def _start_of(self, model: FlatModel) -> TreeSpec:
        """Names, shapes and dtypes of the start."""
        inside, buffers = coordinates(model.module), since_start(self.down.public, self.public)
        theta0 = [] if inside is None else [(self.theta0, Spec((len(inside.start),)))]
        return TreeSpec((*theta0, *buffers))

    @property
    def _buffers(self) -> int:
        """Numbers of the buffers that travel."""
        return sum(leaf.numel for name, leaf in self.public if name.startswith(shared_values.BUFFER))

    def _initial(self, build: Build) -> Callable[[Key], dict[str, Tensor]]:
        """Makes all that travels at first, by name. The objective's vectors begin at zero."""

        def made(key: Key) -> dict[str, Tensor]:
            module = build(key)
            self.method.prepare(module, self.common.fold("factor"))  # nothing, where `build` has done it
            model = FlatModel(module)
            if self.method.space is not None:
                return {WHOLE: model.shared.clone()}
            zeros = [torch.zeros_like(model.shared_params)] * self.method.objective.server_vectors
            return shared_values.values(model, zeros)

        return made

    def _start(self, build: Build) -> Callable[[Key], dict[str, Tensor]]:
        """Makes the start from a key; remembered, because every end of a downlink asks."""

        def made(key: Key) -> dict[str, Tensor]:
            if (build, key) not in self._starts:
                module = build(key)
                self.method.prepare(module, self.common.fold("factor"))
                self._starts.clear()
                self._starts[build, key] = self._first(FlatModel(module))
            return self._starts[build, key]

        return made


@lru_cache(maxsize=16)  # all of a round's clients ask, and its digest stays with it
def _of_round(common: Key, round: int) -> Key:
    return common.fold("round", round, "common")


def _up(method: Method) -> Lift:
    """The uplink; inside K subspaces each vector of s has an end of its own, and one that rests does not travel.

    Under noise and masks none rests.
    """
    vectors = method.inside.vectors if method.inside and not (method.privacy or method.masking) else 1
    return Flat(Blocks(method.up.codec, vectors)) if vectors > 1 and isinstance(method.up, Flat) else method.up


def _down(method: Method) -> Downlink:
    """The downlink; inside K subspaces differences are those of single vectors of s."""
    vectors = method.inside.vectors if method.inside else 1

    def by_vector(lift: Lift) -> Lift:
        if vectors == 1 or not isinstance(lift, Flat) or not isinstance(lift.codec, Delta):
            return lift
        return Flat(Delta(Blocks(lift.codec.codec, vectors, least=LEAST)))

    return Downlink.of(method.down).map(by_vector)


def _check_noise(model: FlatModel) -> None:
    """LocalError for buffers that noise would spoil; unit vectors are computed anew after every mean."""
    units = vector_names(model.module)
    buffers = [name for name in model.travelling if name in model.buffer_names and name not in units]
    if buffers:
        names = ", ".join(buffers[:FEW]) + (f" and {len(buffers) - FEW} more" if len(buffers) > FEW else "")
        raise LocalError(
            f"dp: noise would spoil the float buffers that travel: {names} (a noisy variance may be negative). Use "
            "GroupNorm instead of BatchNorm, or track_running_stats=False, and register constants with persistent=False"
        )
