"""Method: what makes one way of federating differ from another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from fewbits.checks import check_one_of
from fewbits.codecs import Codec, Lift, Raw, Transform, as_lift
from fewbits.coders.base import Coder
from fewbits.errors import LocalError
from fewbits.factor import Factorisation
from fewbits.factor.coordinates import coordinates, enter_subspace, leave_subspace
from fewbits.factor.names import mark_private, staying
from fewbits.learn.aggregation import Aggregator, NormBound
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import Plain
from fewbits.learn.optimizers import ServerOptimizer, ServerSGD
from fewbits.learn.unit_vectors import NamedTensors
from fewbits.links import Downlink
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.pairwise_masking import PairwiseMasking
from fewbits.rng import Key

NORMALISE = ("sampled", "all")
PREPARED = "prepared_for"  # attribute of a model
LAST = "@last"  # a pattern: the module of the last parameters


@dataclass(frozen=True)
class Method:
    """What one method of federated learning sends, and how clients and server learn.

    Args:
        name: as on the command line.
        up: the clients' codec.
        down: the server's codec, or a Downlink.
        optimizer: the server's step; None: the objective's own half, or else ServerSGD().
        normalise: weights sum to 1 over the "sampled" clients, or over "all" (LBGM's official code).
        objective: terms that clients add to their loss.
        factor: the model's weights become factors before the first round.
        space: the subspaces in which the model moves, by updates made outside of them.
        inside: the subspace in which clients train, in place of the model's parameters.
        private: shell patterns on the names of parameters that stay with their client.
        privacy: noise on what clients send.
        masking: the server reads only the sum of a round's messages.
        aggregator: takes the place of the mean of a round's updates; None: the mean, weighted by examples.
        norm_bound: leaves out updates that are much longer than the others; None: no bound.

    Raises:
        LocalError: the parts do not fit each other.

    Example:
        >>> import fewbits as fb
        >>> method = fb.Method.of(up=fb.TopK(0.1), optimizer=fb.ServerSGD(momentum=0.9))
        >>> method.up, method.down
        (flat(chain(TopK(fraction=0.1))), flat(chain(Raw())))
    """

    wire_name: ClassVar[str] = "method"

    name: str  # as on the command line
    up: Lift  # clients to server
    down: Lift | Downlink  # server to clients
    optimizer: ServerOptimizer | None = None  # None: the objective's own half, else ServerSGD()
    normalise: str = "sampled"  # or "all": divide by everybody's examples (LBGM's official code)
    objective: Objective = field(default_factory=Plain)  # what clients follow besides their loss
    factor: Factorisation | None = None  # the model's weights become factors before the first round
    space: IntrinsicSpace | None = None  # the subspaces that the model moves in
    inside: IntrinsicSpace | None = None  # the subspace whose coordinates take the parameters' place
    private: tuple[str, ...] = ()  # shell patterns on names: parameters that stay with their client
    privacy: DifferentialPrivacy | None = None  # noise on what clients send
    masking: PairwiseMasking | None = None  # only the sum of a round's messages can be read
    aggregator: Aggregator | None = None  # in place of the weighted mean
    norm_bound: NormBound | None = field(default_factory=NormBound)  # updates beyond it are left out

    @staticmethod
    def of(
        up: Codec | Transform | Coder,
        down: Codec | Transform | Coder | Downlink | None = None,
        optimizer: ServerOptimizer | None = None,
        objective: Objective | None = None,
    ) -> Method:
        """A method without a name of its own, for loops by hand: the codecs up and down, and nothing else by default.

        >>> from fewbits import Delta, Method, Quantize, Rans, TopK, chain
        >>> Method.of(up=TopK(0.1), down=Delta(chain(Quantize(bits=8), Rans()))).down
        flat(Delta(chain(Quantize(bits=8), Rans())))
        """
        down = Raw() if down is None else down
        lift = down if isinstance(down, Downlink) else as_lift(down, "Method.of")
        return Method("custom", as_lift(up, "Method.of"), lift, optimizer, objective=objective or Plain())

    def __post_init__(self) -> None:
        check_one_of("Method: normalise", self.normalise, NORMALISE)
        optimizer = self.server_optimizer
        self.objective.check_server(optimizer)
        if self.normalise == "all" and (self.objective.server_vectors or optimizer.needs_objective):
            raise LocalError(
                f"Method: {self.objective!r} weighs by everybody's examples itself; use normalise='sampled'"
            )
        if self.privacy is not None and self.objective.server_vectors:
            raise LocalError(
                f"Method: {self.objective!r} adds up all that clients ever sent beside their updates, and would keep "
                "all noise of dp; take another objective"
            )
        many = self.space is not None and self.space.subspaces > 1
        if self.masking is not None and (self.objective.client_vectors or many):
            raise LocalError(
                "Method: masks need clients that keep nothing, as a round may be void, and one subspace for all; got "
                f"{self.objective!r} and {self.space!r}"
            )
        if self.aggregator is not None:
            _check_aggregator(self, self.aggregator)

    def weight(self, examples: float) -> float:
        """What a client with so many examples counts in a mean; under dp and masks all count alike."""
        return examples if self.privacy is None and self.masking is None else 1

    @property
    def watched(self) -> NormBound | None:
        """The bound, where the server may look at single updates: not under masks, nor under central dp."""
        return None if _sums_only(self) else self.norm_bound

    @property
    def poisson(self) -> bool:
        """Whether each client is drawn by a coin of its own, as the account of central noise assumes."""
        return self.privacy is not None and self.privacy.central

    def for_round_size(self, clients: int) -> Method:
        """As a run with so many clients in each round uses it; LocalError when they are too few to hide in."""
        most = 2 * clients + 20 if self.poisson else clients  # coins draw more with a chance below 1e-9
        largest = self.privacy.largest if self.privacy is not None and self.poisson else 0.0  # noise is never cut
        return replace(
            self,
            privacy=self.privacy and replace(self.privacy, clients=clients),
            masking=self.masking and self.masking.for_round_size(clients, most, largest),
        )

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """The one that was given, or that goes with the objective."""
        return self.optimizer or self.objective.server() or ServerSGD()

    @property
    def personal(self) -> bool:
        """Whether clients end with personal models, each to be evaluated on its client's holdout."""
        if self.factor is not None and (self.factor.form == "pfedpara" or self.factor.private):
            return True
        return bool(self.private)

    def prepare(self, model: nn.Module, key: Key) -> None:
        """Factor a new model and mark what stays private, in place; nothing where an equal method has done it."""
        mark = (self.factor, self.private)
        if getattr(model, PREPARED, None) != mark:
            self._prepare(model, key)
            setattr(model, PREPARED, mark)
        found = coordinates(model)
        if found is not None and (self.inside is None or self.inside.bases(len(found.start)) != list(found.bases)):
            leave_subspace(model)
        if self.inside is not None and not isinstance(model, NamedTensors):  # whose tensors are s already
            enter_subspace(model, self.inside.bases)

    def start(self, model: nn.Module, round: int, client: int) -> None:
        """Let a prepared model train what it is a client's turn to train: inside subspaces not all vectors of s.

        `round` counts from 1. Only apps on Flower need to call this.
        """
        found = coordinates(model)
        if found is not None and self.inside is not None:
            found.train(self.inside.trained(round, client))

    def _prepare(self, model: nn.Module, key: Key) -> None:
        modules = ["", *(name.rpartition(".")[0] for name, _ in model.named_parameters())]  # before factors add theirs
        if self.factor is not None:
            self.factor(model, key)
        if self.private:
            mark_private(
                model, staying(model, [modules[-1] if pattern == LAST else pattern for pattern in self.private])
            )


def _sums_only(method: Method) -> bool:
    """Whether the server may use the sum of a round's messages alone."""
    central = method.privacy is not None and method.privacy.share == "central"
    return method.masking is not None or central


def _check_aggregator(method: Method, aggregator: object) -> None:
    """LocalError where there are no single updates to compare, or the server steps on their sum."""
    if not isinstance(aggregator, Aggregator):
        raise LocalError(f"Method: aggregator must be an Aggregator, such as CoordinateMedian(); got {aggregator!r}")
    if _sums_only(method):
        hidden = "masks hide them" if method.masking is not None else "dp with share=central promises that it uses none"
        raise LocalError(f"Method: {aggregator!r} compares single updates, and {hidden}; use one of them")
    if method.server_optimizer.carrier is not None:
        raise LocalError(
            f"Method: {aggregator!r} compares updates, but {method.server_optimizer!r} steps on the sum of sketches; "
            "use one of them"
        )
