"""PublicModel: the model that a server owns, how the clients' mean update moves it, and how it is published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Chain, Flat
from fewbits.errors import LocalError
from fewbits.federated.exchange import Exchange
from fewbits.federated.round_sum import RoundSum
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import SENT
from fewbits.learn.objective import Vectors
from fewbits.learn.optimizers import Moments
from fewbits.factor.coordinates import coordinates
from fewbits.links import SharedInit, StartedBroadcast
from fewbits.links.epochs import NOW, WHOLE
from fewbits.links.finite import all_finite
from fewbits.rng import Key


class PublicModel(ABC):
    """What is public: the model's parameters and buffers, and the objective's vectors."""

    def __init__(self, model: FlatModel, exchange: Exchange, key: Key, init: SharedInit | None) -> None:
        self.model, self.exchange = model, exchange
        self.optimizer, self.objective = exchange.method.server_optimizer, exchange.method.objective
        self.server_vectors: Vectors = (torch.zeros_like(model.shared_params),) * self.objective.server_vectors
        inside = coordinates(model.module)
        self.publisher = exchange.publisher(key, init, None if inside is None else inside.start)
        self.moments: Moments = self.optimizer.init(self.dim)
        self._unknown = shared_values.unknown_buffers(model)
        self.remarks: dict[str, str] = {}  # one sentence for each unknown buffer that clients changed, by its name

    @staticmethod
    def of(model: FlatModel, exchange: Exchange, key: Key, init: SharedInit | None) -> PublicModel:
        """The form that the method needs."""
        return (WholeModel if exchange.method.space is None else SubspaceModel)(model, exchange, key, init)

    @property
    @abstractmethod
    def dim(self) -> int:
        """How many numbers the optimiser moves."""

    @abstractmethod
    def step(self, sums: RoundSum, scale: float, share: float) -> None:
        """Move by `scale` times the sum, if there is one, and publish. `share`: see `ServerOptimizer.step`."""

    @abstractmethod
    def check_plain(self) -> None:
        """LocalError when updates that went through no link cannot be added, nor the model be replaced."""

    def replace(self, theta: Mapping[str, Tensor]) -> None:
        """Take other values, by the names of `FlatModel.named`, and publish them."""
        self.check_plain()
        if not isinstance(theta, Mapping) or not all(isinstance(x, Tensor) for x in theta.values()):
            raise LocalError(f"Server.replace takes a dict of tensors by their names; got {type(theta).__name__}")
        self._check_finite(*theta.values())
        self.model.load(theta)
        self.model.refresh()
        self.publisher.publish(shared_values.values(self.model, self.server_vectors))

    def _check_finite(self, *after: Tensor) -> None:
        if not all(map(all_finite, after)):
            raise LocalError(f"Server.step: {self.optimizer} leaves float32's range; the model stays as it was")

    def dump(self) -> dict[str, Sequence[Any]]:
        """For a checkpoint."""
        inside = coordinates(self.model.module)
        return {
            "start": [] if inside is None else [inside.start],
            "theta": [self.model.vector()],
            "server_vectors": [x.clone() for x in self.server_vectors],
            "moments": [m.clone() for m in self.moments],
            "broadcast": self.publisher.dump(),
        }

    def load(self, dumped: Mapping[str, Sequence[Any]]) -> None:
        """Become what was dumped; LocalError when it had another model or objective."""
        (theta,), vectors, inside = dumped["theta"], dumped["server_vectors"], coordinates(self.model.module)
        for start in dumped.get("start", ()):
            if inside is None or not isinstance(self.publisher, StartedBroadcast):
                raise LocalError("Server.load: this server does not train inside a subspace, and the saved one did")
            inside.start = self.publisher.start = start
        self.model.load_vector(theta)
        if len(vectors) != len(self.server_vectors):
            raise LocalError(f"Server.load: expected {len(self.server_vectors)} server vectors; got {len(vectors)}")
        self.publisher.load(dumped["broadcast"])
        self.moments, self.server_vectors = tuple(dumped["moments"]), tuple(vectors)


class WholeModel(PublicModel):
    """All of the model moves: theta <- optimizer(theta, mean update); buffers are averaged as they are."""

    def __init__(self, model: FlatModel, exchange: Exchange, key: Key, init: SharedInit | None) -> None:
        super().__init__(model, exchange, key, init)
        self._check_carrier()
        self.publisher.publish(shared_values.values(model, self.server_vectors))

    @property
    def dim(self) -> int:
        return len(self.model.shared_params)

    def _check_carrier(self) -> None:
        """An optimiser that steps on carriers needs them, of one vector with all that travels, as they were added."""
        prefix, up = self.optimizer.carrier, self.exchange.up
        if prefix is None:
            return
        codec = up.inner[0]
        if not isinstance(up, Flat) or not isinstance(codec, Chain) or codec.linear_prefix != (prefix,):
            raise LocalError(
                f"Server: {self.optimizer!r} steps on sums of what {prefix!r} leaves, so the uplink must be "
                f"flat(chain({prefix!r}, ...)), and nothing but parameters may travel (use GroupNorm instead of "
                f"BatchNorm); got {up!r}"
            )

    def check_plain(self) -> None:
        if self.optimizer.carrier is not None:
            raise LocalError(
                f"Server.add: {self.optimizer} steps on what a codec sends; a plain update has gone through none"
            )

    def step(self, sums: RoundSum, scale: float, share: float) -> None:
        if not sums.empty:
            self._apply(sums, scale, share)
        self.publisher.publish(shared_values.values(self.model, self.server_vectors))

    def _apply(self, sums: RoundSum, scale: float, share: float) -> None:
        mean: dict[str, Tensor] = {}
        if self.optimizer.carrier is not None:
            update = sums.carried(scale)
        else:
            mean = sums.values(scale)
            parameters = [x.reshape(-1) for name, x in mean.items() if not name.startswith(shared_values.AS_THEY_ARE)]
            update = torch.cat([torch.zeros(0), *parameters])
        theta, moments = self.optimizer.step(self.model.shared_params, update, self.moments, share=share)
        changed = tuple(x for name, x in mean.items() if name.startswith(shared_values.CONTROL))
        server_vectors = self.objective.absorb(self.server_vectors, changed, share)
        current = shared_values.values(self.model)
        buffers = {name: current[name] - x for name, x in mean.items() if name.startswith(shared_values.BUFFER)}
        self._check_finite(theta, *server_vectors, *moments, *buffers.values())
        self.model.shared_params.copy_(theta)
        self.moments, self.server_vectors = moments, server_vectors
        for name, x in buffers.items():
            current[name].copy_(x)
        self.model.refresh()
        self._remark(mean)

    def _remark(self, mean: Mapping[str, Tensor]) -> None:
        """Name the unknown buffers that clients changed, each once."""
        for name in [name for name in self._unknown if bool(mean[name].any())]:
            self._unknown.remove(name)
            self.remarks[name] = shared_values.averaged(name)


class SubspaceModel(PublicModel):
    """Only s moves: theta = theta_e + A_e s; the moments are those of one epoch's subspace."""

    def __init__(self, model: FlatModel, exchange: Exchange, key: Key, init: SharedInit | None) -> None:
        super().__init__(model, exchange, key, init)
        if self.optimizer.carrier is not None:
            raise LocalError(f"Server: {self.optimizer!r} steps on sketches, not in a subspace; choose one of them")
        self.publisher.publish({WHOLE: model.shared})

    @property
    def dim(self) -> int:
        assert self.exchange.method.space is not None
        return self.exchange.method.space.numel

    def check_plain(self) -> None:
        raise LocalError("Server: in a run in subspaces every client sends A^T of its update, through a link")

    def step(self, sums: RoundSum, scale: float, share: float) -> None:
        s, space, version = self.publisher.current[NOW], self.exchange.method.space, self.publisher.version
        if not sums.empty:
            s, moments = self.optimizer.step(s, sums.coordinates(SENT, scale), self.moments, share=share)
            self._check_finite(s, *moments)
        else:
            moments = self.moments
        self.publisher.publish({NOW: s})
        self.moments = moments
        if space and space.epoch_of(version + 1) != space.epoch_of(version):
            self.moments = self.optimizer.init(self.dim)
        self.model.shared.copy_(self.publisher.value[WHOLE])
