"""The state of a replica as tensors, texts and numbers, and back; everything is checked before anything moves."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewbits.errors import LocalError, WireError
from fewbits.links import Sender
from fewbits.links.ledger import DIRECTIONS
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.outer_model import OuterModel, OuterState

if TYPE_CHECKING:
    from fewbits.replicas.replica import Replica

OWNER = "OuterStep.load_state_dict"
SUMS = ("frame_bytes", "payload_bytes", "messages")  # of a ledger
SHOWN = 200  # characters of a text in a message


def write(replica: Replica) -> dict[str, object]:
    """See `Replica.state_dict`."""
    return {
        "facts": replica.facts(),
        **_numbers(replica),
        "steps": replica.steps,
        "exchanges": replica.exchanges,
        "sums": {name: dict(getattr(replica.ledger, name)) for name in SUMS},
        "fragments": [_fragment(*pair) for pair in zip(replica.outer, replica.senders, strict=True)],
    }


def read(replica: Replica, state: Mapping[str, object]) -> None:
    """See `Replica.load_state_dict`."""
    _check_same(_taken(state, "facts", dict), replica.facts())
    for name, value in _numbers(replica).items():
        if state.get(name) != value:
            raise LocalError(f"{OWNER}: this is {name} {value}, and the state is of {name} {state.get(name)}")
    steps, exchanges = (_count(state, name) for name in ("steps", "exchanges"))
    sums = _taken(state, "sums", dict)
    counts = {name: {way: _count(_taken(sums, name, dict), way) for way in DIRECTIONS} for name in SUMS}
    parts = _taken(state, "fragments", list)
    if len(parts) != len(replica.outer):
        raise LocalError(f"{OWNER}: the state has {len(parts)} fragments; there are {len(replica.outer)}")
    found = [_read(*three) for three in zip(replica.outer, replica.senders, parts, strict=True)]
    replica.steps, replica.exchanges = steps, exchanges
    for name, sums in counts.items():
        setattr(replica.ledger, name, sums)
    for (moved, link, sender), part in zip(found, replica.outer, strict=True):
        part.link = link
        part.start(moved)
        replica.senders[replica.outer.index(part)] = sender


def as_bytes(x: object) -> bytes:
    """The bytes in a tensor that `as_tensor` made; LocalError for anything else."""
    if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.dim() != 1:
        raise LocalError(f"{OWNER}: the ends of links are one-dimensional uint8 tensors; got {type(x).__name__}")
    return x.cpu().contiguous().numpy().tobytes()


def as_tensor(data: bytes) -> Tensor:
    """Bytes as a tensor.  # (n,) uint8"""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _numbers(replica: Replica) -> dict[str, object]:
    return {"rank": replica.rank, "size": replica.size}


def _fragment(part: OuterModel, sender: Sender) -> dict[str, object]:
    return {
        "theta": part.state.theta.clone(),
        "moments": [m.clone() for m in part.state.moments],
        "rounds": part.state.rounds,
        "sender": as_tensor(sender.dump()),
        "receivers": [as_tensor(data) for data in part.link.dump()],
    }


def _read(part: OuterModel, sender: Sender, state: object) -> tuple[OuterState, MeanLink, Sender]:
    """One fragment in fresh objects."""
    if not isinstance(state, Mapping):
        raise LocalError(f"{OWNER}: a fragment is a dict; got {type(state).__name__}")
    moments = tuple(_taken(state, "moments", list))
    now = part.state
    if len(moments) != len(now.moments):
        raise LocalError(f"{OWNER}: the optimizer has {len(now.moments)} moments; the state has {len(moments)}")
    theta, *moments = (_like(*pair) for pair in zip((state.get("theta"), *moments), (now.theta, *now.moments), strict=True))
    link, end = copy.copy(part.link), copy.copy(sender)
    try:
        link.load([as_bytes(x) for x in _taken(state, "receivers", list)])
        end.load(as_bytes(state.get("sender")))
    except WireError as error:
        raise LocalError(f"{OWNER}: {error}") from None
    return OuterState(theta, tuple(moments), _count(state, "rounds")), link, end


def _like(x: object, like: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.shape != like.shape or not x.is_floating_point():
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise LocalError(f"{OWNER}: expected {like.dtype} of shape {tuple(like.shape)}; got {got}")
    if not bool(torch.isfinite(x).all()):
        raise LocalError(f"{OWNER}: the state has values that are not finite")
    return x.detach().cpu().clone()


def _check_same(found: Mapping[str, object], expected: Mapping[str, str]) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            raise LocalError(
                f"{OWNER}: the {name} is {value[:SHOWN]}; that of the state is {str(found.get(name))[:SHOWN]}"
            )


def _taken(state: Mapping[str, object], name: str, kind: type) -> Any:
    value = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(value, Mapping if kind is dict else Sequence) or isinstance(value, str | bytes):
        raise LocalError(f"{OWNER}: expected what state_dict() gave; {name!r} is {type(value).__name__}")
    return value


def _count(state: Mapping[str, object], name: str) -> int:
    value = state.get(name)
    if type(value) is not int or value < 0:
        raise LocalError(f"{OWNER}: {name!r} must be a whole number, 0 or more; got {value!r}")
    return value
