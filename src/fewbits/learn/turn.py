"""A client's turn: from what is public and what the client keeps, through training, to its update and what it keeps.

`public` is what `exchange.vector` makes of the public values: all of the model that travels, then the objective's
vectors. `kept` never travels: the private parameters, the private buffers, then the objective's vectors, end to end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.learn import exchange
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction
from fewbits.learn.objective import Objective
from fewbits.links import StateStore
from fewbits.links.client_state import dump_client_state, load_client_state

KEPT = "client.kept"  # the part's name in a StateStore


def fresh(model: FlatModel, objective: Objective) -> Tensor:
    """What a client keeps before its first turn: the common initial private part, and zeros.  # (kept,)"""
    zeros = torch.zeros(objective.kept * len(model.shared_params), device=model.whole.device)
    return torch.cat([*model.private, zeros])


def recall(store: StateStore, client: int, model: FlatModel, objective: Objective, newcomer: Tensor) -> Tensor:
    """What the client keeps, by the store; `newcomer`, which `fresh` gave, before its first turn.  # (kept,)"""
    stored = store.get(client, KEPT) if len(newcomer) else None
    return newcomer if stored is None else load_client_state(stored, len(newcomer), _layout(model, objective))


def remember(store: StateStore, client: int, round: int, model: FlatModel, objective: Objective, keep: Tensor) -> None:
    """Store what the client keeps after its turn of a round."""
    if len(keep):
        store.put(client, KEPT, round, dump_client_state(keep, _layout(model, objective)))


def load(model: FlatModel, public: Tensor, kept: Tensor) -> None:
    """Make the model this client's."""
    model.shared.copy_(public[: len(model.shared)])
    if len(kept):
        parameters, buffers = model.private
        parameters.copy_(kept[: len(parameters)])
        buffers.copy_(kept[len(parameters) : len(parameters) + len(buffers)])


def correction(model: FlatModel, public: Tensor, kept: Tensor, objective: Objective) -> Correction | None:
    """What the objective adds to every gradient of what travels; the private part follows the plain loss.

    public: the values the turn began with; they must stay as they are while the client trains.
    """
    start = public[: len(model.shared_params)]
    extra, own = exchange.controls(public, model, objective.extra), _own(model, kept, objective)
    term = objective.term(start, extra, own)
    return None if term is None else lambda model: term(model.shared_params, model.shared_grads)


def finish(
    model: FlatModel, public: Tensor, kept: Tensor, objective: Objective, steps: int, lr: float, out: Tensor
) -> Tensor:
    """Write start - end of all that travels into `out`, laid out like `public`; return what the client keeps now."""
    size = len(model.shared)
    torch.sub(public[:size], model.shared, out=out[:size])
    if not len(kept) and not objective.extra:
        return kept
    start, end = public[: len(model.shared_params)], model.shared_params
    extra, own = exchange.controls(public, model, objective.extra), _own(model, kept, objective)
    own, update = objective.finish(start, end, extra, own, steps, lr)
    for place, x in zip(exchange.controls(out, model, objective.extra), update, strict=True):
        place.copy_(x)
    return torch.cat([*model.private, *own])


def _layout(model: FlatModel, objective: Objective) -> str:
    return f"{sorted(model.private_names)} {objective!r}"


def _own(model: FlatModel, kept: Tensor, objective: Objective) -> tuple[Tensor, ...]:
    """The objective's part of what a client keeps.  # each (S,)"""
    if not objective.kept:
        return ()
    return exchange.split(kept[sum(map(len, model.private)) :], len(model.shared_params), objective.kept)
