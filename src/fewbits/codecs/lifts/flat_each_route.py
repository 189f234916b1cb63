"""flat, each, route: from codecs of one vector to codecs of a dict of named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from fewbits.codecs.base import Codec, Transform
from fewbits.codecs.chain import as_codec, chain
from fewbits.codecs.lifts.lift import AnySpec, Group, Lift, entries, group
from fewbits.codecs.transforms.quantize import Quantize
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.delta import Delta
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.look_back import LookBack
from fewbits.coders import Rans
from fewbits.coders.base import Coder
from fewbits.errors import LocalError


@dataclass(frozen=True)
class Flat(Lift):
    """All tensors as one vector, through one codec; `flat` builds it.

    Args:
        codec: of one vector.

    Raises:
        LocalError: the codec takes a dict of tensors already.

    Example:
        >>> flat(Raw()).codec
        chain(Raw())
    """

    wire_name: ClassVar[str] = "flat"

    codec: Codec

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", _vector_codec(self.codec, "flat"))

    def __repr__(self) -> str:
        return f"flat({self.codec!r})"

    @property
    def inner(self) -> Sequence[Codec]:
        return (self.codec,)

    def _groups(self, spec: AnySpec) -> list[Group]:
        return [group("flat", range(len(entries(spec))), spec, self.codec)]

    def _codecs(self, groups: int) -> Sequence[Codec]:
        return [self.codec]

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [
            cls(chain(TopK(0.2), Quantize(bits=4), Rans())),
            cls(ErrorFeedback(chain(TopK(0.2)))),
            cls(Delta(chain(Raw()))),
        ]


@dataclass(frozen=True)
class Each(Lift):
    """Every tensor by itself, through one codec with a state for each; `each` builds it.

    Args:
        codec: of one vector.

    Raises:
        LocalError: the codec takes a dict of tensors already.

    Example:
        >>> each(Raw()).codec
        chain(Raw())
    """

    wire_name: ClassVar[str] = "each"

    codec: Codec

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", _vector_codec(self.codec, "each"))

    def __repr__(self) -> str:
        return f"each({self.codec!r})"

    @property
    def inner(self) -> Sequence[Codec]:
        return (self.codec,)

    def _groups(self, spec: AnySpec) -> list[Group]:
        return [group(name, [i], spec, self.codec) for i, (name, _) in enumerate(entries(spec))]

    def _codecs(self, groups: int) -> Sequence[Codec]:
        return [self.codec] * groups

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls(chain(TopK(0.2), Quantize(bits=4))), cls(LookBack(chain(Raw()), threshold=0.9))]


@dataclass(frozen=True)
class Route(Lift):
    """Tensors by the first rule that matches their name, one vector for each rule; `route` builds it.

    Args:
        rules: (shell pattern, codec of one vector) pairs, in order.

    Raises:
        LocalError: there is no rule, or a codec takes a dict of tensors already.

    Example:
        >>> route([("*.bias", Raw()), ("*", TopK(0.01))]).rules[0]
        ('*.bias', chain(Raw()))
    """

    wire_name: ClassVar[str] = "route"

    rules: tuple[tuple[str, Codec], ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise LocalError('route: give at least one rule, such as ("*", Raw())')
        rules = tuple((pattern, _vector_codec(codec, f"route[{pattern!r}]")) for pattern, codec in self.rules)
        object.__setattr__(self, "rules", rules)

    def __repr__(self) -> str:
        return f"route({list(self.rules)!r})"

    @property
    def inner(self) -> Sequence[Codec]:
        return tuple(codec for _, codec in self.rules)

    def _groups(self, spec: AnySpec) -> list[Group]:
        """One per rule; every rule must match a tensor and every tensor a rule."""
        names = [name for name, _ in entries(spec)]
        found: list[list[int]] = [[] for _ in self.rules]
        for i, name in enumerate(names):
            rule = next((r for r, (pattern, _) in enumerate(self.rules) if fnmatchcase(name, pattern)), None)
            if rule is None:
                raise LocalError(
                    f'route: no rule for {name!r}; end with ("*", ...). Rules: {[p for p, _ in self.rules]}'
                )
            found[rule].append(i)
        for (pattern, _), members in zip(self.rules, found, strict=True):
            if not members:
                raise LocalError(f"route: the pattern {pattern!r} gets no tensor of {names}")
        return [
            group(pattern, members, spec, codec) for (pattern, codec), members in zip(self.rules, found, strict=True)
        ]

    def _codecs(self, groups: int) -> Sequence[Codec]:
        return self.inner

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls((("*bias", chain(Raw())), ("*", chain(TopK(0.2), Quantize(bits=4), Rans()))))]


def flat(codec: Codec | Transform | Coder) -> Flat:
    """Send all tensors as one vector: the default, because every group costs side information.

    Args:
        codec: any codec of one vector, a transform, or a coder.

    Raises:
        LocalError: codec is none of these, or takes a dict of tensors already.

    Example:
        >>> flat(TopK(0.01))
        flat(chain(TopK(fraction=0.01)))
    """
    return Flat(as_codec(codec, "flat"))


def each(codec: Codec | Transform | Coder) -> Each:
    """Send every tensor by itself, with side information and state for each.

    Around `LookBack`, every tensor is recycled or sent in full by itself.

    Args:
        codec: any codec of one vector, a transform, or a coder.

    Raises:
        LocalError: codec is none of these, or takes a dict of tensors already.

    Example:
        >>> each(LookBack(Raw(), threshold=0.5))
        each(LookBack(chain(Raw()), threshold=0.5))
    """
    return Each(as_codec(codec, "each"))


def route(rules: Sequence[tuple[str, Codec | Transform | Coder]]) -> Route:
    """Send tensors by the first rule whose shell pattern matches their name; those of one rule travel as one vector.

    Args:
        rules: (pattern, codec) pairs, in order; case counts. Every tensor needs a rule and every rule a tensor.

    Raises:
        LocalError: a rule is no such pair, or its codec takes a dict of tensors already; on a link, a tensor has no
            rule, or a rule no tensor.

    Example:
        >>> route([("*.bias", Raw()), ("*", TopK(0.01))])
        route([('*.bias', chain(Raw())), ('*', chain(TopK(fraction=0.01)))])
    """
    try:
        pairs = [(str(pattern), as_codec(codec, f"route[{pattern!r}]")) for pattern, codec in rules]
    except (TypeError, ValueError) as error:
        if isinstance(error, LocalError):
            raise
        raise LocalError(f"route: expected a list of (pattern, codec) pairs; got {rules!r}") from None
    return Route(tuple(pairs))


def as_lift(codec: Codec | Transform | Coder, owner: str) -> Lift:
    """A lift as it is; anything else under `flat`.

    Args:
        codec: a lift, a codec of one vector, a transform, or a coder.
        owner: the word that an error begins with.

    Raises:
        LocalError: codec is none of these.

    Example:
        >>> as_lift(TopK(0.01), "uplink")
        flat(chain(TopK(fraction=0.01)))
    """
    codec = as_codec(codec, owner)
    return codec if isinstance(codec, Lift) else Flat(codec)


def _vector_codec(codec: Codec | Transform | Coder, owner: str) -> Codec:
    codec = as_codec(codec, owner)
    if codec.lift:
        raise LocalError(f"{owner}: {codec!r} already takes a dict of tensors; lifts do not nest")
    return codec
