"""IntrinsicSpace: train in random subspaces, theta = theta0 + A s, so that only s and A^T g travel.

Wang and Melas-Kyriazi, Intrinsic Gradient Compression for Federated Learning, 2021 (arXiv 2112.02656).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_one_of, check_whole
from fewbits.codecs import Basis
from fewbits.errors import LocalError, WireError
from fewbits.learn import shared_values
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.objective import Objective
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

SENT = "s"  # the name of what a client sends: A^T of its update
MODES = ("static", "time-varying", "k-subspace", "growing")


@dataclass(frozen=True)
class IntrinsicSpace:
    """Which subspaces a run moves in. n = k * dim numbers are s: k vectors of dim, end to end.

    Outside, where clients train the model. static: one A. time-varying: a fresh A every `epoch` rounds; s starts again
    at 0, and its last value is folded into theta. k-subspace: k matrices per epoch, of which each sampled client uses
    one, drawn from (seed, round, client). The paper's clients take one gradient; here A^T is taken of what several
    local steps changed: the same linear map.

    Inside, where clients train s: all `vectors` of s exist from the beginning, and `trained` says which ones move.

    Args:
        dim: d, numbers of a subspace; larger: more bytes, less is lost.
        mode: "static", "time-varying", "k-subspace", or inside "growing".
        k: matrices in each epoch, of which only k-subspace has more than one; inside: in all.
        epoch: rounds until the matrices change; static has one epoch.
        basis: "fastfood", "sparse", "hadamard" or "gaussian"; see `Basis`.
        scale: "orthonormal", or "unbiased", whose steps are D/dim times as long.
        seed: of the matrices; everybody's.

    Raises:
        LocalError: an option is out of range.

    Example:
        >>> IntrinsicSpace(dim=256, mode="k-subspace", k=4).numel
        1024
    """

    wire_name: ClassVar[str] = "intrinsic_space"

    dim: int = 4096  # d; larger: more bytes, less is lost
    mode: str = "static"
    k: int = 4  # matrices per epoch; only k-subspace has more than one
    epoch: int = 10  # rounds; only static has no epochs
    basis: str = "fastfood"  # or "sparse", "hadamard", "gaussian"
    scale: str = "orthonormal"  # or "unbiased": steps D/dim times as long
    seed: int = 7  # of the matrices; everybody's

    def __post_init__(self) -> None:
        check_one_of("IntrinsicSpace: mode", self.mode, MODES)
        for name in ("dim", "k", "epoch"):
            check_whole(f"IntrinsicSpace: {name}", getattr(self, name), 1, numpy=name != "dim")
        Basis(self.dim, self.dim, Key(self.seed), self.basis, self.scale)  # says what is wrong with the others

    @property
    def subspaces(self) -> int:
        """K."""
        return self.k if self.mode == "k-subspace" else 1

    @property
    def vectors(self) -> int:
        """Vectors of s where clients train inside: all that there ever will be."""
        return 1 if self.mode == "static" else self.k

    @property
    def numel_inside(self) -> int:
        """Numbers in s where clients train inside."""
        return self.vectors * self.dim

    @property
    def numel(self) -> int:
        """Numbers in s."""
        return self.subspaces * self.dim

    def spec(self, model: FlatModel, objective: Objective) -> TreeSpec:
        """Of what a client sends: A^T of its parameters' update, and its buffers' update beside it.

        LocalError for objectives that send vectors as long as the model.
        """
        if objective.server_vectors:
            raise LocalError(
                f"a run in subspaces cannot carry the {objective.server_vectors} vectors, as long as the model, that "
                f"{objective!r} sends with every update; take another objective"
            )
        self.matrix(len(model.shared_params), 0, 0)  # says so when dim is too large
        buffers = [entry for entry in shared_values.spec(model) if entry[0].startswith(shared_values.BUFFER)]
        return TreeSpec(((SENT, Spec((self.dim,))), *buffers))

    def epoch_of(self, version: int) -> int:
        """The epoch that the model of this version (1: the initial one) is trained in."""
        return 0 if self.mode == "static" else (version - 1) // self.epoch

    def matrix(self, size: int, epoch: int, which: int) -> Basis:
        """A_{e,k}: size x dim."""
        return Basis(size, self.dim, Key(self.seed).fold("epoch", epoch, "subspace", which), self.basis, self.scale)

    def bases(self, size: int) -> list[Basis]:
        """The matrices of a model that trains inside, one for each vector of s."""
        return [self.matrix(size, 0, which) for which in range(self.vectors)]

    def trained(self, version: int, client: int) -> range:
        """Which vectors of s a client trains on a version, where it trains inside."""
        check_whole("IntrinsicSpace.trained: version", version, 1, numpy=True)
        epoch = (version - 1) // self.epoch
        if self.mode == "growing":
            return range(min(epoch + 1, self.k))
        which = epoch % self.k if self.mode == "time-varying" else self.which(version, client)
        return range(which, which + 1)

    def check_epoch(self, version: int, newest: int) -> None:
        """WireError when an update from a version moves in another subspace than the newest one."""
        if self.epoch_of(version) != self.epoch_of(newest):
            raise WireError(
                f"the update is from version {version}, of epoch {self.epoch_of(version)}; the model moves in another "
                f"subspace now, of epoch {self.epoch_of(newest)}"
            )

    def which(self, round: int, client: int) -> int:
        """The subspace that a client uses in a round."""
        if self.subspaces == 1:
            return 0
        return int(Key(self.seed).fold("round", round, "client", client).below(self.subspaces, 1)[0])

    def expand(self, size: int, epoch: int, s: Tensor) -> Tensor:
        """The sum of A_{e,k} s_k.  # (n,) -> (size,)"""
        total = torch.zeros(size)
        for which, part in enumerate(torch.split(s, self.dim)):
            if bool(part.any()):
                total += self.matrix(size, epoch, which).expand(part)
        return total
