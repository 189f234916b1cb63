"""OuterModel: the values that all replicas began their inner steps with, and the outer step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from isal.isal_zlib import crc32
from torch import Tensor

from fewbits.codecs import Delta
from fewbits.codecs.finiteness import norm
from fewbits.errors import LocalError, WireError
from fewbits.learn.one_thread import one_thread
from fewbits.learn.optimizers import Moments, ServerSGD
from fewbits.learn.shared_values import CHANGED, with_buffers
from fewbits.links.finite import all_finite
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.slices import SliceLink
from fewbits.replicas.tensors import ReplicaTensors, check_finite_start, digest_of
from fewbits.replicas.terms import Terms
from fewbits.rng import Key

Frames = Sequence[bytes | memoryview]
Link = MeanLink | SliceLink


class OuterState(NamedTuple):
    """What moves at an outer step, besides the links."""

    theta: Tensor  # (numel,) parameters, then buffers
    moments: Moments  # of the outer optimizer
    rounds: int  # outer steps so far


class OuterModel:
    """A fragment of the model, the same at all replicas: theta, the outer optimiser's moments and the links.

    ``theta, m = optimizer(theta, mean of start - end, m)`` for parameters; buffers move to their mean. The same frames
    give the same bits: all is computed on the CPU, with one thread.

    Args:
        tensors: of one replica.
        names: what belongs to the fragment.
        number: of the fragment, from 0.
        terms: codec, optimizer and key.
        size: how many ranks there are.
    """

    def __init__(self, tensors: ReplicaTensors, names: tuple[str, ...], number: int, terms: Terms, size: int) -> None:
        self.names, self.spec = names, tensors.spec(names)
        self.codec = with_buffers(terms.codec, self.spec, Delta(CHANGED) if terms.partner else CHANGED)
        self.link: Link = (
            SliceLink(self.spec, size)
            if terms.sliced(size)
            else MeanLink(self.codec, self.spec, 0 if terms.partner else size)
        )
        self.trained = sum(tensors.like[name].numel() for name in names if name in tensors.trained)
        self._tensors = tensors
        self._optimizer, self._key = terms.optimizer, terms.key.fold("outer", number)
        moments = tuple(m.to(tensors.dtype) for m in terms.optimizer.init(self.trained))
        check_finite_start(tensors.pieces(theta := tensors.read(names), names))
        self.torn = False  # see `taking`
        self.start(OuterState(theta, moments, 0))

    @property
    def state(self) -> OuterState:
        """What the last outer step left; LocalError when it is not at all replicas, as `taking` says."""
        if self.torn:
            raise LocalError("OuterStep: an outer step was interrupted half-way; load the last states on all ranks")
        return self.now

    def start(self, state: OuterState, most: tuple[float, float] | None = None) -> None:
        """Go on from this state; `most`: bounds of |theta| and of the moment's numbers, where they are known."""
        self._most = most or (norm(state.theta), max(map(norm, state.moments), default=0.0))
        self.now, self.digest = state, digest_of(state.theta)

    def resume(self, state: OuterState, link: Link) -> None:
        """Go on from a checkpoint; until the next step, `digest` is one of moments and links, too."""
        self.link = link
        self.start(state)
        for part in (*(m.numpy() for m in state.moments), *link.dump()):
            self.digest = crc32(part, self.digest)

    def regroup(self, ranks: Sequence[int], joined: Collection[int] = ()) -> None:
        """Take the means over these ranks from now on; `digest` is then one of moments and links, too."""
        assert isinstance(self.link, MeanLink)
        self.link.regroup(ranks, joined)
        self.resume(self.now, self.link)

    def check(self, theta: Tensor) -> None:
        """WireError naming the first tensor of the module that could not hold these finite values."""
        if name := self._tensors.too_large(theta, self.names):
            raise WireError(f"outer step {self.state.rounds + 1} would leave the range of {name}")

    @property
    def common(self) -> Key:
        """The common randomness of the next frames."""
        return self._key.fold(self.state.rounds)

    def prepare(self, frames: Frames) -> Callable[[], None]:
        """What takes the outer step that one frame of each rank, in the order of ranks, makes; nothing moves before.

        Raises:
            WireError: as for `MeanLink.mean`, or the step would leave the range of the module's floats.
        """
        with one_thread():
            updates = self.link.means(frames, self.common)
            most = self._reach(updates)
            after = None if most else self.stepped(updates[0] if len(updates) == 1 else torch.cat(updates))

        def take() -> None:
            if after is None:
                with one_thread():
                    self._step_in_place(updates)
            self.start(after or self.now._replace(rounds=self.now.rounds + 1), most)
            self.link.commit()

        return take

    def stepped(self, update: Tensor) -> OuterState:
        """The state after the outer step along an update; WireError when it would leave the range of floats."""
        before, n = self.state, self.trained
        update = update.to(before.theta.dtype)
        theta, moments = self._optimizer.step(before.theta[:n], update[:n], before.moments)
        if n < len(update):
            theta = torch.cat([theta, before.theta[n:] - update[n:]])
        if not all_finite(theta) or not all(all_finite(m) for m in moments):
            raise WireError(f"outer step {before.rounds + 1} would leave the range of {theta.dtype}")
        self.check(theta)
        return OuterState(theta, moments, before.rounds + 1)

    def _reach(self, updates: Sequence[Tensor]) -> tuple[float, float] | None:
        """Bounds of |theta| and of the moment's numbers after a step in place; None: it might overflow, or is none."""
        rule, theta = self._optimizer, self.state.theta
        if not isinstance(rule, ServerSGD) or self._tensors.narrow or updates[0].dtype != theta.dtype:
            return None
        update = sum(map(norm, updates))
        most = rule.reach(max(self._most[0], update), update, self._most[1])
        return most if max(most) < torch.finfo(theta.dtype).max / 2 else None

    def _step_in_place(self, updates: Sequence[Tensor]) -> None:
        """The step along vectors end to end, in no other memory.

        SGD steps entry by entry, so each part is taken where it lies.
        """
        rule, (theta, moments, _), n, end = self._optimizer, self.now, self.trained, 0
        assert isinstance(rule, ServerSGD)
        for part in updates:
            start, end = end, end + len(part)
            trained, rest = slice(min(start, n), min(end, n)), slice(max(start, n), max(end, n))
            rule.step_(theta[trained], part[: trained.stop - trained.start], tuple(m[trained] for m in moments))
            theta[rest].sub_(part[trained.stop - trained.start :])


@contextmanager
def loading(parts: Sequence[OuterModel]) -> Iterator[None]:
    """While outer models and their replicas get a state. When it ends early, by Ctrl-C perhaps, `state` says so."""
    for part in parts:
        part.torn = True
    yield
    for part in reversed(parts):  # the first one last
        part.torn = False


@contextmanager
def taking(parts: Sequence[OuterModel]) -> Iterator[None]:
    """While they move by a step, until all of their replicas have it; what may be refused goes before.

    Raises:
        LocalError: an earlier step was interrupted.
    """
    check_whole(parts)
    with loading(parts):
        yield


def check_whole(parts: Sequence[OuterModel]) -> None:
    """LocalError when a step was interrupted half-way."""
    for part in parts:
        part.state  # noqa: B018 - says so
