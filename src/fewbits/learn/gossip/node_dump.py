"""A node's state between two rounds as tensors by name: what of it is checked before a node takes it, and its links."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.errors import FewbitsError, LocalError
from fewbits.learn.aggregation.past_norms import is_entry
from fewbits.learn.module_checks import check_like
from fewbits.links import Receiver, Sender

SENDER, START, NORMS = "sender", "start", "norms"
MOST_ROUNDS = 10**9
BYTES = torch.zeros(0, dtype=torch.uint8)
LIKE = {
    "round": torch.zeros(1, dtype=torch.int64),
    "weights.nodes": torch.zeros(0, dtype=torch.int64),
    "weights.values": torch.zeros(0, dtype=torch.float64),
    NORMS: torch.zeros(0, 2, dtype=torch.float64),
}


def check_names(dumped: object, me: int, neighbours: Mapping[int, Receiver]) -> set[str]:
    """The names in a dump; LocalError unless they are those of this node."""
    names = {*LIKE, SENDER, START, *(_receiver(j) for j in neighbours)}
    found = set(dumped) if isinstance(dumped, Mapping) else set()
    if not names <= found or any(not str(name).startswith("vector.") for name in found - names):
        raise LocalError(f"Node.load: not the dump of node {me} of this network, model and method")
    return found


def check_dump(dumped: Mapping[str, Tensor], vectors: Mapping[str, Tensor], start: Tensor, nodes: int) -> None:
    """LocalError names the first tensor that is not as `Node.dump` writes it; `vectors`, `start`: the node's."""
    expected = LIKE | dict(vectors) | {START: start}
    if vectors.keys() != (found := {name for name in dumped if name.startswith("vector.")}):
        raise LocalError(f"Node.load: expected the vectors {sorted(vectors)}; got {sorted(found)}")
    for name in dumped:
        fixed = name in vectors or name in ("round", START)
        check_like(f"Node.load: {name}", dumped[name], expected.get(name, BYTES), free=0 if fixed else 1)
    check_whole("Node.load: round", int(dumped["round"]), 0, MOST_ROUNDS)
    known, weights = dumped["weights.nodes"].tolist(), dumped["weights.values"].tolist()
    if len(set(known)) != len(known) or not all(0 <= j < nodes for j in known):
        raise LocalError(f"Node.load: expected nodes of 0..{nodes - 1}, each once; got {known}")
    if len(known) != len(weights):
        raise LocalError(f"Node.load: got {len(weights)} weights for {len(known)} nodes")
    if not all(0 <= weight <= 1 for weight in weights):
        raise LocalError(f"Node.load: expected weights in [0, 1]; got {weights}")
    odd = next((row for row in dumped[NORMS].tolist() if not is_entry(*row)), None)
    if odd is not None:
        raise LocalError(f"Node.load: {NORMS} must have rows of median and number of changes; got {odd}")


def dump_links(sender: Sender, receivers: Mapping[int, Receiver]) -> dict[str, Tensor]:
    """The ends of a node's links."""
    return {SENDER: _bytes(sender.dump())} | {_receiver(j): _bytes(end.dump()) for j, end in receivers.items()}


def load_links(dumped: Mapping[str, Tensor], sender: Sender, receivers: Mapping[int, Receiver]) -> None:
    """Restore the ends of a node's links; WireError, and no change, when one of them cannot be."""
    before = dump_links(sender, receivers)
    try:
        _load(dumped, sender, receivers)
    except FewbitsError:
        _load(before, sender, receivers)
        raise


def _load(dumped: Mapping[str, Tensor], sender: Sender, receivers: Mapping[int, Receiver]) -> None:
    sender.load(dumped[SENDER].numpy().tobytes())
    for j, receiver in receivers.items():
        receiver.load(dumped[_receiver(j)].numpy().tobytes())


def _receiver(j: int) -> str:
    return f"receiver.{j}"


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
