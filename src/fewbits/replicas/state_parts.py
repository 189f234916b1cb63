"""Parts of a state that replicas and hooks write and read: texts, numbers, ends of links, a ledger's sums."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import torch
from torch import Tensor

from fewbits.codecs.finiteness import all_finite
from fewbits.errors import LocalError, WireError
from fewbits.facts import AS_GIVEN, shown
from fewbits.links import Ledger
from fewbits.links.ledger import DIRECTIONS
from fewbits.wire import Section

OWNER = "load_state_dict"
SUMS = ("frame_bytes", "payload_bytes", "messages")  # of a ledger
MOST = 2**53  # of a count
SHOWN = 40  # characters of a wrong value in a message


def taken(state: object, name: str, kind: type) -> Any:
    """An entry that is a dict or a list; LocalError for anything else."""
    value = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(value, Mapping if kind is dict else Sequence) or isinstance(value, str | bytes):
        raise LocalError(f"{OWNER}: expected what state_dict() gave; its {name!r} is of type {type(value).__name__}")
    return value


def count(state: object, name: str) -> int:
    """An entry that is a whole number; LocalError for anything else."""
    value = state.get(name) if isinstance(state, Mapping) else None
    if type(value) is not int or not 0 <= value <= MOST:
        got = repr(value)[:SHOWN] if type(value) in (int, float, bool, str) else type(value).__name__
        raise LocalError(f"{OWNER}: {name!r} must be a whole number in 0..{MOST}; got {got}")
    return value


def check_same(state: object, facts: Mapping[str, str], numbers: Mapping[str, int]) -> None:
    """LocalError with both values when the state is of other facts or numbers."""
    found = taken(state, "facts", dict)
    texts = {name: text for name, text in found.items() if isinstance(text, str)}
    for name, value in facts.items():
        if not name.endswith(AS_GIVEN) and texts.get(name) != value:
            ours, theirs = shown(name, [facts, texts])
            raise LocalError(f"{OWNER}: the {name} is {ours}; that of the state is {theirs}")
    for name, number in numbers.items():
        if count(state, name) != number:
            raise LocalError(f"{OWNER}: the {name} is {number}; that of the state is {count(state, name)}")


def sums_of(ledger: Ledger) -> dict[str, dict[str, int]]:
    """What a ledger has counted."""
    return {name: dict(getattr(ledger, name)) for name in SUMS}


def read_sums(state: object) -> Ledger:
    """A ledger that goes on from what `sums_of` gave under "sums"."""
    found, sums = Ledger(), taken(state, "sums", dict)
    for name in SUMS:
        setattr(found, name, {way: count(taken(sums, name, dict), way) for way in DIRECTIONS})
    return found


class RankEnds(Protocol):
    """A rank's own ends of the links that its frames travel on: a `Sender`, or several."""

    @property
    def pending(self) -> bool:
        """Whether a frame is neither committed nor rolled back."""
        ...

    @property
    def sections(self) -> list[Section]:
        """Of the payload of the last frame to all ranks."""
        ...

    def commit(self) -> None:
        """All ranks have the last frame."""

    def rollback(self) -> None:
        """The last frame does not count."""

    def dump(self) -> bytes:
        """These ends as bytes."""
        ...

    def load(self, data: bytes) -> None:
        """Become the ends that were dumped."""


class CommonEnds(Protocol):
    """The receiving ends that all ranks have in common."""

    def dump(self) -> list[bytes]:
        """The ends of all ranks as bytes."""
        ...

    def load(self, ends: Sequence[bytes]) -> None:
        """Take over the ends that were dumped."""


R = TypeVar("R", bound=RankEnds)
C = TypeVar("C", bound=CommonEnds)


def ends_of(sender: RankEnds, link: CommonEnds) -> dict[str, object]:
    """This rank's end of its link and the receiving ends of all links, as uint8 tensors."""
    return {"sender": tensor_of(sender.dump()), "receivers": [tensor_of(data) for data in link.dump()]}


def read_ends(state: object, sender: R, link: C) -> tuple[R, C]:
    """New ends from what `ends_of` gave; the given ones stay as they are."""
    sender, link = copy.copy(sender), copy.copy(link)
    try:
        sender.load(bytes_of(state.get("sender") if isinstance(state, Mapping) else None))
        link.load([bytes_of(x) for x in taken(state, "receivers", list)])
    except WireError as error:
        raise LocalError(f"{OWNER}: {error}") from None
    return sender, link


def read_like(x: object, like: Tensor) -> Tensor:
    """A copy of a tensor of that shape and type, on the CPU; LocalError when it is none, or is not finite."""
    if not _plain(x) or x.shape != like.shape or x.dtype != like.dtype:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if _plain(x) else type(x).__name__
        raise LocalError(f"{OWNER}: expected {like.dtype} of shape {tuple(like.shape)}; got {got}")
    copied = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    if not all_finite(copied):
        raise LocalError(f"{OWNER}: the state has values that are not finite")
    return copied


def bytes_of(x: object) -> bytes:
    """The bytes in a tensor that `tensor_of` made; LocalError for anything else."""
    if not _plain(x) or x.dtype != torch.uint8 or x.dim() != 1:
        raise LocalError(f"{OWNER}: the ends of links are vectors of uint8; got {type(x).__name__}")
    return x.cpu().contiguous().numpy().tobytes()


def _plain(x: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor that holds all of its numbers."""
    return isinstance(x, Tensor) and not x.is_nested and x.layout == torch.strided and not x.is_meta


def tensor_of(data: bytes) -> Tensor:
    """Bytes as a vector of uint8, for a state."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
