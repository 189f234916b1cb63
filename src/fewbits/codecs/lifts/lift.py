"""Lift: what makes one vector of many tensors, and many tensors of one vector again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fewbits.codecs.base import Codec, Keys, Partial, Total
from fewbits.codecs.flat_view import flat_view
from fewbits.rng import Key
from fewbits.spec import Contract, Spec, TreeSpec
from fewbits.wire import BitReader, BitWriter

AnySpec = Spec | TreeSpec


class Group(NamedTuple):
    """Tensors that travel as one vector."""

    name: str  # of the section in the payload
    members: tuple[int, ...]  # positions in the tree
    spec: Spec  # of the vector
    codec: Codec


@dataclass(frozen=True)
class Lift(Codec):
    """A codec of a tensor or a dict of tensors: groups of tensors are laid end to end, each group through its codec.

    The vector of a group has the tensors' dtype if they agree, else float32 (float64 if one of them is).
    Messages, states and memories are tuples, one entry per group.

    Example:
        >>> import fewbits as fb
        >>> tree = Spec.of({"w": torch.zeros(2, 3), "b": torch.zeros(3)})
        >>> [group.name for group in fb.each(fb.Raw()).groups(tree)], len(fb.flat(fb.Raw()).groups(tree))
        (['w', 'b'], 1)
    """

    lift: ClassVar[bool] = True

    def groups(self, spec: AnySpec) -> list[Group]:
        """Who travels with whom; LocalError when the lift does not fit the tree."""
        known = self.__dict__.get("_known")
        if known is None or known[0] is not spec:  # hashing a tree of Specs costs a dense client 3% of its round
            known = (spec, _grouped(self, spec))
            object.__setattr__(self, "_known", known)
        return known[1]

    @abstractmethod
    def _groups(self, spec: AnySpec) -> list[Group]:
        pass

    def check(self, spec: Any) -> None:
        for group in self.groups(spec):
            group.codec.check(group.spec)

    def init(self, spec: Any) -> tuple[Any, ...]:
        return tuple(g.codec.init(g.spec) for g in self.groups(spec))

    def start(self, x: Any, spec: Any) -> tuple[Any, ...]:
        leaves = _leaves(x, spec)
        return tuple(g.codec.start(_lay(leaves, g), g.spec) for g in self.groups(spec))

    def memory(self, spec: Any) -> tuple[Any, ...]:
        return tuple(g.codec.memory(g.spec) for g in self.groups(spec))

    def encode(self, x: Any, spec: Any, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        """Each group by its codec, with keys of its own when there are several."""
        groups, leaves = self.groups(spec), _leaves(x, spec)
        pairs = [
            g.codec.encode(
                _lay(leaves, g),
                g.spec,
                state[i],
                memory[i],
                Keys(_group_key(keys.private, i, groups), _group_key(keys.common, i, groups)),
            )
            for i, g in enumerate(groups)
        ]
        return tuple(m for m, _ in pairs), tuple(after for _, after in pairs)

    def decode(self, message: Any, spec: Any, state: Any) -> tuple[Any, Any]:
        groups = self.groups(spec)
        pairs = [g.codec.decode(m, g.spec, s) for g, m, s in zip(groups, message, state, strict=True)]
        return cut([x for x, _ in pairs], groups, spec), tuple(new for _, new in pairs)

    def write(self, message: Any, spec: Any, out: BitWriter) -> None:
        for g, m in zip(self.groups(spec), message, strict=True):
            with out.section(g.name):
                g.codec.write(m, g.spec, out)

    def read(self, spec: Any, src: BitReader, common: Key) -> tuple[Any, ...]:
        groups, messages = self.groups(spec), []
        for i, g in enumerate(groups):
            with src.section(g.name):
                messages.append(g.codec.read(g.spec, src, _group_key(common, i, groups)))
        return tuple(messages)

    def write_state(self, state: Any, spec: Any, out: BitWriter) -> None:
        for g, s in zip(self.groups(spec), state, strict=True):
            g.codec.write_state(s, g.spec, out)

    def read_state(self, spec: Any, src: BitReader) -> tuple[Any, ...]:
        return tuple(g.codec.read_state(g.spec, src) for g in self.groups(spec))

    def write_memory(self, memory: Any, spec: Any, out: BitWriter) -> None:
        for g, m in zip(self.groups(spec), memory, strict=True):
            g.codec.write_memory(m, g.spec, out)

    def read_memory(self, spec: Any, src: BitReader) -> tuple[Any, ...]:
        return tuple(g.codec.read_memory(g.spec, src) for g in self.groups(spec))

    def contract(self, spec: Any) -> Contract:
        """What all groups promise; sizes add when every group but the last ends on a whole byte."""
        parts = [g.codec.contract(g.spec) for g in self.groups(spec)]
        bits = [c.payload_bits for c in parts]
        whole = None not in bits and all(b % 8 == 0 for b in bits[:-1] if b is not None)
        omegas, deltas = [c.omega for c in parts], [c.delta for c in parts]
        return Contract(
            lossless=all(c.lossless for c in parts),
            omega=None if None in omegas else max([w for w in omegas if w is not None], default=0.0),
            delta=None if None in deltas else min([d for d in deltas if d is not None], default=1.0),
            payload_bits=sum(b for b in bits if b is not None) if whole else None,
            portable=all(c.portable for c in parts),
            linear=bool(parts) and all(c.linear for c in parts),
            bounded=all(c.bounded for c in parts),
        )

    def partials(self, message: Any, spec: Any, state: Any) -> tuple[tuple[Partial, ...], Any]:
        """Each group decoded as far as a sum may be taken, and the new state."""
        pairs = [g.codec.partial(m, g.spec, s) for g, m, s in zip(self.groups(spec), message, state, strict=True)]
        return tuple(p for p, _ in pairs), tuple(new for _, new in pairs)

    def follow(self, message: Any, spec: Any, state: Any) -> Any:
        return tuple(g.codec.follow(m, g.spec, s) for g, m, s in zip(self.groups(spec), message, state, strict=True))

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        """Each figure over all groups: the mean, but the largest floor."""
        memories = memory if memory is not None else [None] * len(message)
        found: dict[str, list[float]] = {}
        for codec, m, after in zip(self._codecs(len(message)), message, memories, strict=True):
            for name, value in codec.observe(m, after).items():
                found.setdefault(name, []).append(value)
        combine = {"floor": max}
        return {name: combine.get(name, _mean)(values) for name, values in found.items()}

    @abstractmethod
    def _codecs(self, groups: int) -> Sequence[Codec]:
        """The codec of each group."""


class TreeTotal:
    """A weighted sum of messages of one lift: one Total per group.

    Args:
        codec: the lift that all messages are from.
        spec: of the tensor or the dict.

    Example:
        >>> import fewbits as fb
        >>> total = TreeTotal(fb.flat(fb.Raw()), Spec.of({"w": torch.zeros(2)}))
        >>> total.add([Partial(torch.ones(2))], weight=2)
        >>> total.value()
        {'w': tensor([2., 2.])}
    """

    def __init__(self, codec: Lift, spec: AnySpec) -> None:
        self.spec, self.groups = spec, codec.groups(spec)
        self._totals = [Total(g.codec, g.spec) for g in self.groups]

    def add(self, partials: Sequence[Partial], weight: float) -> None:
        """Add `weight` times one message."""
        for total, partial in zip(self._totals, partials, strict=True):
            total.add(partial, weight)

    @property
    def carried(self) -> tuple[Tensor, ...]:
        """The sum of each group before it is expanded."""
        return tuple(total.carried for total in self._totals)

    def value(self) -> Any:
        """The sum, as a tensor or a dict like the spec's."""
        return cut([total.value() for total in self._totals], self.groups, self.spec)

    def beside(self, group: int) -> Any:
        """The sum, with zeros for the tensors of one group, which is not expanded."""
        vectors = [torch.zeros(t.spec.numel) if i == group else t.value() for i, t in enumerate(self._totals)]
        return cut(vectors, self.groups, self.spec)


@lru_cache(maxsize=64)  # a link asks for every frame
def _grouped(lift: Lift, spec: AnySpec) -> list[Group]:
    return lift._groups(spec)


def entries(spec: AnySpec) -> tuple[tuple[str, Spec], ...]:
    """Names and Specs; a lone tensor is called "tensor"."""
    return spec.entries if isinstance(spec, TreeSpec) else (("tensor", spec),)


def group(name: str, members: Sequence[int], spec: AnySpec, codec: Codec) -> Group:
    """The group of some of the tensors of a tree."""
    parts = [entries(spec)[i][1] for i in members]
    types = {part.dtype for part in parts}
    dtype = types.pop() if len(types) == 1 else "float64" if "float64" in types else "float32"
    lengths = tuple(part.numel for part in parts)
    vector = Spec((sum(lengths),), dtype, segments=lengths if len(lengths) > 1 else ())
    return Group(name, tuple(members), vector, codec)


def _leaves(x: Any, spec: AnySpec) -> list[Tensor]:
    return list(x.values()) if isinstance(spec, TreeSpec) else [x]


def _lay(leaves: Sequence[Tensor], group: Group) -> Tensor:
    """Lay the group's tensors end to end; those that lie so already are not copied."""
    dtype = group.spec.torch_dtype
    laid = flat_view(leaves[i] for i in group.members)
    if laid is not None and laid.dtype == dtype:
        return laid
    flats = [leaves[i].detach().reshape(-1).cpu().to(dtype) for i in group.members]
    return torch.cat(flats or [torch.zeros(0, dtype=dtype)])


def cut(vectors: Sequence[Tensor], groups: Sequence[Group], spec: AnySpec) -> Any:
    """Undo `_lay`: views of the vectors, cast to each tensor's own dtype."""
    named = entries(spec)
    found: list[Tensor | None] = [None] * len(named)
    for vector, group in zip(vectors, groups, strict=True):
        lengths = [named[i][1].numel for i in group.members]
        for i, piece in zip(group.members, torch.split(vector, lengths), strict=True):
            found[i] = piece.reshape(named[i][1].shape).to(named[i][1].torch_dtype)
    if isinstance(spec, TreeSpec):
        return {name: x for (name, _), x in zip(named, found, strict=True)}
    return found[0]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _group_key(key: Key, i: int, groups: Sequence[Group]) -> Key:
    return key if len(groups) == 1 else key.fold(i)
