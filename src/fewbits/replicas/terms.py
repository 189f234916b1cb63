"""Terms: what replicas of one model send, and how all of them step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fewbits.checks import check_count, check_whole
from fewbits.codecs import Codec, Lift, Transform, as_lift
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.facts import AS_GIVEN
from fewbits.learn.aggregation import NormBound
from fewbits.learn.method import Method
from fewbits.learn.objectives import Plain
from fewbits.learn.optimizers import ServerOptimizer, ServerSGD
from fewbits.methods import named
from fewbits.replicas.noloco import OPTIMIZER as NOLOCO
from fewbits.replicas.noloco import preset
from fewbits.replicas.partners import DENSE, AnyCodec, RandomPartner, differences
from fewbits.rng import Key
from fewbits.wire.identity import canonical

DILOCO = ServerSGD(lr=0.7, momentum=0.9, nesterov=True)
AnyMethod = AnyCodec


@dataclass(frozen=True)
class Streaming:
    """Streaming DiLoCo: a part of the model travels at a time, and while it travels training goes on.

    ``theta' = optimizer(theta, mean of theta - sent)`` and, `delay` steps after `sent` was taken,
    ``now = theta' + (now - sent)``: what a replica has learned meanwhile stays. So with a delay the replicas have theta
    in common, and differ by these steps.

    Args:
        fragments: parts of about equal size, each with an exchange every `every` steps, in turn.
        delay: steps between making a frame and using those of all ranks, 0 or more; less than every / fragments.

    Raises:
        LocalError: a number is out of range.

    Example:
        >>> Streaming(fragments=3, delay=5)
        Streaming(fragments=3, delay=5)

    References:
        Douillard et al., Streaming DiLoCo with overlapping communication, 2025. Different here: they mix theta' and now
        by a factor.
    """

    wire_name: ClassVar[str] = "streaming"

    fragments: int = 1
    delay: int = 0

    def __post_init__(self) -> None:
        check_whole("Streaming: fragments", self.fragments, 1)
        check_whole("Streaming: delay", self.delay, 0)


AT_ONCE = Streaming()


@dataclass(frozen=True)
class Terms:
    """What all replicas of a model must have in common.

    Args:
        codec: of pseudo-gradients.
        optimizer: the outer step.
        every: inner steps between two exchanges of the same tensors, 1 or more.
        streaming: parts of the model that travel in turn, and how long.
        key: all random numbers are drawn from it.
        given: the method as a person wrote it, for messages.
        partner: how a rank steps with one other rank; None: all ranks step together.

    Raises:
        LocalError: a number is out of range.
    """

    codec: Lift
    optimizer: ServerOptimizer
    every: int
    streaming: Streaming
    key: Key
    given: str = ""
    partner: RandomPartner | None = None

    def __post_init__(self) -> None:
        check_count("OuterStep: every", self.every)
        if not isinstance(self.streaming, Streaming):
            raise LocalError(f"OuterStep: streaming must be a Streaming, such as Streaming(2); got {self.streaming!r}")
        if self.streaming.delay >= self.every // self.streaming.fragments:
            raise LocalError(
                "OuterStep: fragments travel one after the other, so delay must be less than every / fragments; got "
                f"every={self.every} and {self.streaming!r}"
            )
        if not isinstance(self.key, Key):
            raise LocalError(f"OuterStep: key must be a Key, such as fb.Key(0); got {self.key!r}")
        if self.partner is not None and self.streaming != AT_ONCE:
            raise LocalError(
                "OuterStep: with a random partner the whole model travels at once, and training waits for it; got "
                f"{self.partner!r} and {self.streaming!r}"
            )

    @staticmethod
    def of(
        method: AnyMethod | RandomPartner,
        optimizer: ServerOptimizer | None,
        every: int,
        streaming: Streaming = AT_ONCE,
        key: Key = Key(0),
    ) -> Terms:
        """The terms of a method, given as for OuterStep."""
        given, partner = text_of(method), None
        if (found := preset(method)) is not None:
            partner, optimizer = found[0], optimizer or found[1]
        elif isinstance(method, RandomPartner):
            partner = method
            optimizer = optimizer or (None if isinstance(method.method, str | Method) else NOLOCO)
        inner = partner.method if partner else method
        assert not isinstance(inner, RandomPartner)
        codec = codec_of(inner, "RandomPartner" if partner else "OuterStep")
        step = optimizer_of(inner, optimizer)
        return Terms(differences(codec) if partner else codec, step, every, streaming, key, given, partner)

    def sliced(self, size: int) -> bool:
        """Whether each of so many ranks takes the mean of a slice and sends it to all: two legs of dense frames.

        A rank then sends 2 (R - 1) / R times its vector, as in a ring, in place of R - 1 times; for two ranks that is
        the same. With a delay, frames go to all, since the first leg is computed with before the second one travels.
        """
        return size > 2 and self.codec == DENSE and not self.streaming.delay and self.partner is None

    def facts(self) -> dict[str, str]:
        """The terms as texts by name, for a comparison with another rank's."""
        return {
            **method_facts(self.codec, self.given),
            "outer optimizer": canonical(self.optimizer),
            "every": str(self.every),
            "streaming": canonical(self.streaming),
            "partner": f"a random rank, pull={float(self.partner.pull)!r}" if self.partner else "all ranks",
            "key": self.key.text(),
        }


def codec_of(method: AnyMethod, owner: str) -> Lift:
    """The uplink codec of a method, or the codec itself; LocalError for a method that does more than send updates."""
    if isinstance(method, Codec | Transform | Coder):
        return as_lift(method, owner)
    if preset(method) is not None:
        raise LocalError(f"{owner}: {method!r} has a random partner and its own step; give it to OuterStep or Replicas")
    found = named(method)
    for reason in _obstacles(found):
        raise LocalError(f"{owner}: method {found.name!r} {reason}")
    return found.up


def text_of(method: AnyMethod | RandomPartner) -> str:
    """The method as a person wrote it; of a codec, its text."""
    if isinstance(method, RandomPartner):
        return text_of(method.method)
    if isinstance(method, str):
        return method
    return method.name if isinstance(method, Method) else canonical(method)


def method_facts(codec: Lift, given: str) -> dict[str, str]:
    """A codec for a comparison with another rank's, and what to show where they differ."""
    return {"method": canonical(codec), "method" + AS_GIVEN: given or canonical(codec)}


def optimizer_of(method: AnyMethod, optimizer: ServerOptimizer | None) -> ServerOptimizer:
    """The outer step: the one that was given; else the method's own; a codec has none, and takes DiLoCo's."""
    if optimizer is None:
        return named(method).server_optimizer if isinstance(method, str | Method) else DILOCO
    if not isinstance(optimizer, ServerOptimizer):
        raise LocalError(f"OuterStep: optimizer must be a step such as fb.ServerSGD(lr=0.7); got {optimizer!r}")
    if optimizer.needs_objective or optimizer.carrier is not None:
        raise LocalError(f"OuterStep: {optimizer!r} is one half of a method with a server; give fb.ServerSGD(lr=0.7)")
    return optimizer


def _obstacles(method: Method) -> Iterator[str]:
    """Why the replicas of one model cannot use this method."""
    if method.factor is not None:
        yield "factors the model; factor it yourself, as fb.fedpara(model) does, and give the method of its updates"
    if method.space is not None or method.inside is not None:
        yield "needs a server with its subspaces; use a codec such as fb.Subspace, which needs none"
    if method.private:
        yield "leaves layers with their clients, and here all replicas become equal"
    if method.privacy is not None or method.masking is not None:
        yield "hides updates from a server, and here every rank decodes the frames of all others"
    if method.aggregator is not None or method.norm_bound not in (None, NormBound()):
        yield "guards a server against its clients, and here the mean of all ranks is taken"
    if method.objective != Plain():
        yield f"changes the loss that clients train with ({method.objective!r}), and here the loop is yours"
    if method.server_optimizer.carrier is not None:
        yield "steps at a server on sums of sketches; choose another one"
