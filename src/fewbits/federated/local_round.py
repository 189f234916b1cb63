"""LocalRound: the part of a client's round before its training, and the part after it."""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.codecs.finiteness import all_finite
from fewbits.errors import WireError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction
from fewbits.learn.local_tensors import LocalTensors
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import Plain
from fewbits.links import StateStore, ends
from fewbits.links.client_state import dump_client_state, load_client_state
from fewbits.wire.identity import canonical

PART = "client.kept"  # the name of a client state in a StateStore


class LocalRound:
    """From the public values and a client state, through training, to the update and the next client state.

    The public values are one vector: all of the model that travels, then the objective's vectors. The client state
    never travels: the private parameters, the private buffers, then the objective's vectors of this client.
    """

    def __init__(self, model: FlatModel, objective: Objective) -> None:
        self.model, self.objective = model, objective
        self.local_tensors = LocalTensors(model)
        self._plain, self._size = type(objective) is Plain, model.shared.numel()
        self._layout = f"{sorted(model.private_names)} {canonical(objective)}"

    def new_state(self) -> Tensor:
        """The state of a client that has not trained yet: the common private part, and zeros.  # (state,)"""
        numel = self.objective.client_vectors * len(self.model.shared_params)
        return torch.cat([*self.model.private, torch.zeros(numel, device=self.model.whole.device)])

    def load(self, public: Tensor, state: Tensor) -> None:
        """Make the model this client's; buffers that are not exchanged, such as batch counters, begin anew."""
        self.model.undisturbed = False
        self.model.attach()  # first, so that no tensor which the training before replaced comes back
        self.model.shared.copy_(self._of_model(public))
        if state.numel():
            parameters, buffers = self.model.private
            parameters.copy_(state[: len(parameters)])
            buffers.copy_(state[len(parameters) : len(parameters) + len(buffers)])
        self.local_tensors.restore()

    def correction(self, public: Tensor, state: Tensor) -> Correction | None:
        """What the objective adds to every gradient of what travels; the private part follows the plain loss.

        public: the values that the round began with; they must not change while the client trains.
        """
        if self._plain:
            return None
        start = public[: len(self.model.shared_params)]
        term = self.objective.term(start, self._server_vectors(public), self._client_vectors(state))
        return None if term is None else lambda model: term(model.shared_params, model.shared_grads)

    def finish(self, public: Tensor, state: Tensor, steps: int, lr: float, out: Tensor) -> tuple[Tensor, bool]:
        """Write start - end of all that travels into `out`, laid out like `public`.

        Returns:
            The next client state, and whether `out` is known to be finite: it lies in the caches now, and not later.
        """
        start, difference = self._of_model(public), self._of_model(out)
        self.model.leave_out(self.model.attach(), start)
        self.model.undisturbed = False
        self.local_tensors.look()
        torch.sub(start, self.model.shared, out=difference)
        if not state.numel() and not self.objective.server_vectors:
            return state, all_finite(difference)
        start, end = public[: len(self.model.shared_params)], self.model.shared_params
        vectors, update = self.objective.finish(
            start, end, self._server_vectors(public), self._client_vectors(state), steps, lr
        )
        for place, x in zip(self._server_vectors(out), update, strict=True):
            place.copy_(x)
        return torch.cat([*self.model.private, *vectors]), False

    def _of_model(self, public: Tensor) -> Tensor:
        """What lies before the objective's vectors."""
        return public if public.numel() == self._size else public[: self._size]

    def dump(self, state: Tensor) -> bytes:
        """A client state as bytes with a checksum."""
        return dump_client_state(state, self._layout)

    def load_state(self, data: bytes, numel: int) -> Tensor:
        """Undo `dump`; WireError when the bytes are damaged or of another model or method.  # (numel,)"""
        return load_client_state(data, numel, self._layout)

    def recall(self, store: StateStore, client: int, new: Tensor) -> Tensor:
        """The client's state in a store; `new`, which `new_state` gave, before its first round.  # (state,)"""
        stored = store.get(client, PART) if new.numel() else None
        if stored is None:
            return new
        try:
            return self.load_state(stored, len(new)).to(new.device)
        except WireError as error:
            raise ends.damaged(store, client, PART, error) from error

    def remember(self, store: StateStore, client: int, round: int, state: Tensor) -> None:
        """Store the client's state after its training in a round."""
        if state.numel():
            store.put(client, PART, round, self.dump(state))

    def _server_vectors(self, public: Tensor) -> tuple[Tensor, ...]:
        return shared_values.controls(public, self.model, self.objective.server_vectors)

    def _client_vectors(self, state: Tensor) -> tuple[Tensor, ...]:
        """The objective's part of a client state.  # each (S,)"""
        if not self.objective.client_vectors:
            return ()
        first = sum(map(len, self.model.private))
        return shared_values.split(state[first:], len(self.model.shared_params), self.objective.client_vectors)
