"""What a Server is given: its parts fit each other, or a sentence says which do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fewbits.checks import check_whole
from fewbits.errors import LocalError
from fewbits.federated.norm_watch import KINDS
from fewbits.learn.aggregation.past_norms import is_entry
from fewbits.learn.method import Method
from fewbits.learn.module_checks import check_like, check_module
from fewbits.links import SharedInit, StateStore
from fewbits.links.finite import all_finite
from fewbits.rng import Key

Dump = Mapping[str, Sequence[Any]]
DUMPED = {"theta", "server_vectors", "moments", "broadcast"}
MOST_ROUNDS = 10**9


def check_arguments(
    model: object,
    method: Method,
    keys: tuple[object, object],
    parts: tuple[object, object],
    total_weight: float | None,
) -> None:
    """LocalError unless a server can have these; the keys are its `key` and `common`, the parts `store` and `init`."""
    for name, key in zip(("key", "common"), keys, strict=True):
        if not isinstance(key, Key):
            raise LocalError(f"Server: {name} must be a Key, such as Key(0); got {key!r}")
    for name, part, kind in zip(("store", "init"), parts, (StateStore, SharedInit), strict=True):
        if part is not None and not isinstance(part, kind):
            raise LocalError(f"Server: {name} must be a {kind.__name__} or None; got {part!r}")
    everybody = method.normalise == "all" or method.objective.server_vectors or method.server_optimizer.needs_objective
    if everybody and total_weight is None:
        raise LocalError(
            f'Server: normalise="all", Scaffold and FedDyn need total_weight, everybody\'s examples; got '
            f"{method.normalise!r}, {method.objective!r} and {total_weight}"
        )
    if not isinstance(model, nn.Module):
        raise LocalError(f"Server: model must be a torch module; got {type(model).__name__}")
    check_module(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise LocalError(f"Server: sums are taken on the CPU; the model is on {device}")


def dump_to_load(round: object, dumped: Dump, versions: object, like: Dump) -> Dump:
    """The dump; LocalError unless these are what `Server.load` takes. `like`: what the server dumps now."""
    check_whole("Server.load: round", round, 0, MOST_ROUNDS, numpy=True)
    newest = int(round) + 1  # pyright: ignore
    if not isinstance(versions, Mapping):
        raise LocalError(f"Server.load: versions must be a dict of numbers by client; got {versions!r}")
    for client, version in versions.items():
        check_whole("Server.load: a client of versions", client, 0, numpy=True)
        hint = f", as {newest} is the newest after round {round}"
        check_whole(f"Server.load: the version of client {client}", version, 0, newest, numpy=True, hint=hint)
    if not isinstance(dumped, Mapping) or not dumped.keys() >= DUMPED:
        raise LocalError(f"Server.load takes what Server.dump gave, with {sorted(DUMPED)}; got {type(dumped).__name__}")
    for name, expected in like.items():
        _check_part(name, dumped.get(name, []), expected)
    return dumped


def _check_part(name: str, found: object, like: Sequence[Any]) -> None:
    what = f"Server.load: {name}"
    if not isinstance(found, list | tuple):
        raise LocalError(f"{what} must be a list; got {type(found).__name__}")
    if name == "broadcast":
        if not found or not all(isinstance(x, bytes | bytearray | memoryview) for x in found):
            raise LocalError(f"{what} must be a list of bytes; got {[type(x).__name__ for x in found]}")
        return
    if len(found) != len(like) and not (name == "norms" and not found):
        raise LocalError(f"{what} must have {len(like)} tensors; got {len(found)}")
    for i, x in enumerate(found):
        check_like(f"{what}: number {i}", x, like[i], free=int(name == "norms"))
        if name != "norms" and not all_finite(x):
            raise LocalError(f"{what}: number {i} has {int((~torch.isfinite(x)).sum())} values that are not finite")
    rows = [row for table in found for row in table.tolist()] if name == "norms" else []
    odd = next((r for r in rows if r[0] not in range(len(KINDS)) or not is_entry(*r[1:])), None)
    if odd is not None:
        raise LocalError(f"{what} must have rows of kind, median and number of updates; got {odd}")
