"""PublicModel: the model that a server owns, how the clients' mean update moves it, and how it is published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewbits.codecs import Chain
from fewbits.errors import FewbitsError, LocalError, WireError
from fewbits.factor.coordinates import coordinates
from fewbits.federated.exchange import Exchange
from fewbits.federated.norm_watch import kinds_of
from fewbits.federated.round_sum import RoundSum
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.objective import Vectors
from fewbits.learn.optimizers import Moments
from fewbits.links import EpochBroadcast, SharedInit, StartedBroadcast
from fewbits.links.epoch_frames import NOW, PLAIN, WHOLE
from fewbits.links.finite import all_finite
from fewbits.rng import Key


class OutOfRangeError(LocalError):
    """A step would take the model, or what the optimizer keeps, out of float32's range."""


class PublicModel(ABC):
    """What is public: the model's parameters and buffers, and the objective's vectors."""

    def __init__(self, model: FlatModel, exchange: Exchange, key: Key, init: SharedInit | None) -> None:
        self.model, self.exchange = model, exchange
        self.optimizer, self.objective = exchange.method.server_optimizer, exchange.method.objective
        self.server_vectors: Vectors = (torch.zeros_like(model.shared_params),) * self.objective.server_vectors
        self.publisher = exchange.publisher(key, init, model)
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

    def move(self, sums: RoundSum, scale: float, share: float) -> str:
        """As `step`, but where the optimizer would leave float32's range the model stays; why it does, or ""."""
        try:
            self.step(sums, scale, share)
        except OutOfRangeError as error:
            self.step(RoundSum(self.exchange), 0.0, 0.0)
            return str(error)
        return ""

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
            raise OutOfRangeError(f"Server.step: {self.optimizer} leaves float32's range; the model stays as it was")

    def _buffers(self, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers after the mean of their updates, by wire name."""
        current = shared_values.values(self.model)
        return {name: current[name] - x for name, x in plain.items() if name.startswith(shared_values.BUFFER)}

    def _load_values(self, parameters: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Load these, with the unit vectors of these parameters."""
        self.model.shared_params.copy_(parameters)
        current = shared_values.values(self.model)
        for name, x in buffers.items():
            current[name].copy_(x)
        self.model.refresh()

    def _remark(self, plain: Mapping[str, Tensor]) -> None:
        """Name the unknown buffers that clients changed, each once."""
        for name in [name for name in self._unknown if bool(plain[name].any())]:
            self._unknown.remove(name)
            self.remarks[name] = shared_values.averaged(name)

    def dump(self) -> dict[str, Sequence[Any]]:
        """For a checkpoint."""
        return {
            "theta": [self.model.vector()],
            "server_vectors": [x.clone() for x in self.server_vectors],
            "moments": [m.clone() for m in self.moments],
            "broadcast": self.publisher.dump(),
        }

    def load(self, dumped: Mapping[str, Sequence[Any]], round: int) -> None:
        """Become what was dumped after `round` rounds, whose tensors have our shapes.

        WireError, and no change, for damaged frames and for those of another round.
        """
        before, inside = self.publisher.dump(), coordinates(self.model.module)
        try:
            self.publisher.load(dumped["broadcast"])
            _check_version(self.publisher.version, round)
        except (LookupError, TypeError, ValueError) as error:  # ours are ValueErrors
            self.publisher.load(before)
            if isinstance(error, FewbitsError):
                raise
            raise WireError("Server.load: these are not the frames of a dumped broadcast") from error
        if inside is not None and isinstance(self.publisher, StartedBroadcast):
            inside.start = self.publisher.start[self.exchange.theta0]
        (theta,) = dumped["theta"]
        self.model.load_vector(theta)
        self.moments, self.server_vectors = tuple(dumped["moments"]), tuple(dumped["server_vectors"])


def _check_version(version: int, round: int) -> None:
    """The first version is there before the first round, and each round publishes one."""
    if version != round + 1:
        raise WireError(f"Server.load: version {round + 1} is the newest after round {round}; got version {version}")


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
        """An optimiser that steps on carriers needs them, of one vector with all parameters, as they were added."""
        prefix, sent = self.optimizer.carrier, self.exchange.sent
        if prefix is None:
            return
        groups = zip(kinds_of(self.exchange), self.exchange.up.groups(sent), strict=True)
        codecs = [group.codec for kind, group in groups if kind == 0]
        if len(codecs) != 1 or not isinstance(codecs[0], Chain) or codecs[0].linear_prefix != (prefix,):
            raise LocalError(
                f"Server: {type(self.optimizer).__name__} steps on sums of what {prefix!r} leaves, so the uplink of "
                f"the parameters must be flat(chain({prefix!r}, ...)); got {self.exchange.method.up!r}"
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
        update, plain = sums.mean(scale)
        theta, moments = self.optimizer.step(self.model.shared_params, update, self.moments, share=share)
        changed = tuple(x for name, x in plain.items() if name.startswith(shared_values.CONTROL))
        server_vectors = self.objective.absorb(self.server_vectors, changed, share)
        buffers = self._buffers(plain)
        self._check_finite(theta, *server_vectors, *moments, *buffers.values())
        self._load_values(theta, buffers)
        self.moments, self.server_vectors = moments, server_vectors
        self._remark(plain)


class SubspaceModel(PublicModel):
    """theta = theta_e + A_e s, and s moves; the moments are those of one epoch's subspace. Buffers are averaged."""

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
        space, version = self.exchange.method.space, self.publisher.version
        values, moments = {NOW: self.publisher.current[NOW]}, self.moments
        if not sums.empty:
            update, plain = sums.mean(scale)
            s, moments = self.optimizer.step(values[NOW], update, moments, share=share)
            self._check_finite(s, *moments)
            values = {NOW: s} | self._moved(s, plain)
            self._remark(plain)
        self.publisher.publish(values)
        self.moments = moments
        if space and space.epoch_of(version + 1) != space.epoch_of(version):
            self.moments = self.optimizer.init(self.dim)
        self.model.shared.copy_(self.publisher.value[WHOLE])

    def _moved(self, s: Tensor, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers as the next version has them, with unit vectors of the weights that s gives.  # (T,)"""
        buffers, parameters = self._buffers(plain), self.model.shared_params
        if not buffers:
            return {}
        assert isinstance(self.publisher, EpochBroadcast)
        if self.model.units:
            parameters = self.publisher.theta(s)[: len(parameters)]
        self._check_finite(parameters, *buffers.values())
        self._load_values(parameters, buffers)
        return {PLAIN: self.model.shared[len(parameters) :].clone()}
