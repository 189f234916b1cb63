"""Replicas: one process plays all ranks; the frames and the model are those that as many processes make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fewbits.checks import check_whole
from fewbits.errors import LocalError
from fewbits.learn.optimizers import ServerOptimizer
from fewbits.links import Ledger
from fewbits.replicas.apart import check_apart
from fewbits.replicas.exchanges import Exchanges, Flight, Make, MakeParts, Parts
from fewbits.replicas.kinds import kind_of
from fewbits.replicas.outer_model import taking
from fewbits.replicas.pair_exchanges import PairExchanges
from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.partners import RandomPartner
from fewbits.replicas.present import MOST_RANK, count_snapshot, regroup
from fewbits.replicas.replica import Replica, check_equal_models
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.snapshot import begin_from, read_snapshot, write_snapshot
from fewbits.replicas.terms import AT_ONCE, DENSE, AnyMethod, Streaming, Terms
from fewbits.rng import Key


class Replicas:
    """R models in one process that take outer steps together: `OuterStep` without a network.

    Train every model by as many inner steps as you like to count as one, then call `step`. What is encoded, what is
    decoded and what is counted is the same as among R processes, bit for bit. All models share one copy of theta.

    Args:
        models: one module for each rank, all of the same shapes. They begin with the values of the first.
        method: as for `OuterStep`; so are all that follow.
        every: inner steps between two exchanges of the same tensors.
        optimizer: the outer step.
        key: all random numbers are drawn from it.
        streaming: parts of the model that travel in turn, and how long they travel.

    Raises:
        LocalError: the models differ in their shapes, share memory of a parameter, or an argument does not fit.

    Example:
        >>> import torch, fewbits as fb
        >>> models = [torch.nn.Linear(3, 2) for _ in range(4)]
        >>> replicas = Replicas(models, "topk@fraction=0.5", every=2, optimizer=fb.ServerSGD())
        >>> for _ in range(2):
        ...     for rank, model in enumerate(models):
        ...         _ = model.weight.data.add_(rank)    # in place of training
        ...     exchanged = replicas.step()
        >>> exchanged, all(torch.equal(model.weight, models[0].weight) for model in models)
        (True, True)
        >>> replicas.sent_bytes[0] == 3 * len(replicas.messages[0])
        True
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        method: AnyMethod | RandomPartner = DENSE,
        every: int = 30,
        optimizer: ServerOptimizer | None = None,
        key: Key = Key(0),
        streaming: Streaming = AT_ONCE,
    ) -> None:
        models = list(models)
        check_whole("Replicas: the number of models", len(models), 1)
        if len({id(model) for model in models}) < len(models):
            raise LocalError("Replicas: every rank needs a model of its own; copy.deepcopy makes one")
        terms = Terms.of(method, optimizer, every, streaming, key)
        self.messages: list[memoryview] = []
        if terms.partner:
            pairs = [PairReplica(model, terms, rank, len(models)) for rank, model in enumerate(models)]
            self._replicas, self._exchanges = [*pairs], PairExchanges(pairs, self._made, lambda prepare: prepare())
        else:
            kind = kind_of(terms, len(models))
            first = kind(models[0], terms, 0, len(models))
            others = [kind(m, terms, rank, len(models), first.outer) for rank, m in enumerate(models[1:], 1)]
            self._replicas = [first, *others]
            self._exchanges = Exchanges(self._replicas, self._carry, _transposed)
        first, *others = self._replicas
        for replica in others:
            check_equal_models(first, replica)
        check_apart(self._replicas)
        for replica in others:
            replica.restart(first.snapshot())

    def step(self) -> bool:
        """Count an inner step of all ranks; True when an outer step was taken after it.

        Raises:
            LocalError: a rank's values are not finite, its model is not the one of the start, cannot be written to or
                shares memory with another; or an earlier step was interrupted, by Ctrl-C perhaps: load the last states.
            WireError: the outer step would leave the range of the model's floats.

        Nothing has changed when it raises one of these. Repair the models and call it again.
        """
        return self._exchanges.step()

    def _made(self, make: Make) -> list[memoryview]:
        self.messages = make()
        return self.messages

    def _carry(self, make: Make) -> Flight:
        messages = self._made(make)
        return lambda: messages

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that are there, in the order of `messages`, `ledgers` and states."""
        return self._replicas[0].ranks

    def leave(self, rank: int) -> None:
        """Go on without a rank, as `OuterStep` with `Elastic` does when it dies before it has sent its next frame.

        Raises:
            LocalError: it is not there, is the last one, or a frame travels.
        """
        self._check_settled("Replicas.leave")
        check_whole("Replicas.leave: rank", rank, 0)
        if rank not in self.ranks or len(self.ranks) == 1:
            raise LocalError(f"Replicas.leave: rank {rank} cannot leave; the ranks are {list(self.ranks)}")
        self._go_on([replica for replica in self._replicas if replica.rank != rank])

    def join(self, model: nn.Module, rank: int) -> None:
        """Take in a rank, which gets the lowest rank's snapshot, as `OuterStep` with `Elastic` does.

        Args:
            model: of the newcomer; it takes over the values of the others.
            rank: a number that no rank has now.

        Raises:
            LocalError: the model differs, the number is taken, or a frame travels.
        """
        self._check_settled("Replicas.join")
        check_whole("Replicas.join: rank", rank, 0, MOST_RANK)
        first = self._replicas[0]
        if rank in self.ranks:
            raise LocalError(f"Replicas.join: rank {rank} is there already; the ranks are {list(self.ranks)}")
        newcomer = Replica(model, first.terms, rank, 1, first.outer)
        check_equal_models(first, newcomer)
        check_apart([*self._replicas, newcomer])
        frame = write_snapshot(first)
        begin_from(newcomer, read_snapshot(frame, newcomer, self.ranks))
        newcomer.steps = first.steps  # all ranks' inner steps are counted together
        count_snapshot(first, rank, "up", len(frame))
        count_snapshot(newcomer, first.rank, "down", len(frame))
        self._go_on(sorted([*self._replicas, newcomer], key=lambda replica: replica.rank), [rank])

    def _check_settled(self, what: str) -> None:
        exchanges = self._exchanges
        if not isinstance(exchanges, Exchanges) or any(isinstance(each, SlicedReplica) for each in self._replicas):
            raise LocalError(f"{what}: ranks leave and join where frames go to all, not in slices or to one partner")
        exchanges.check_landed(what)
        for replica in self._replicas:
            replica.catch_up()

    def _go_on(self, replicas: list[Replica], joined: Sequence[int] = ()) -> None:
        assert isinstance(self._exchanges, Exchanges)
        with taking(replicas[0].outer):
            self._replicas = self._exchanges.replicas = replicas
            regroup(replicas, [replica.rank for replica in replicas], joined)

    def values(self, rank: int | None = None) -> dict[str, Tensor]:
        """Copies of the outer model's tensors, by their names in the module.

        Args:
            rank: whose, which matters with a RandomPartner; None: of the lowest rank.

        Raises:
            LocalError: it is not there.
        """
        rank = self.ranks[0] if rank is None else rank
        check_whole("Replicas.values: rank", rank, 0)
        if rank not in self.ranks:
            raise LocalError(f"Replicas.values: there is no rank {rank}; the ranks are {list(self.ranks)}")
        return self._replicas[self.ranks.index(rank)].values()

    def average(self) -> float:
        """Replace the models, which differ with a RandomPartner, by their mean, as `OuterStep.average` does.

        Returns:
            The consensus distance before, ``sqrt(sum_r |theta_r - mean|^2)``.
        """
        pairs = self._pairs
        assert isinstance(self._exchanges, PairExchanges)
        check_apart(pairs)
        return self._exchanges.average(self._made(lambda: [replica.average_message() for replica in pairs]))

    def consensus_distance(self) -> float:
        """``sqrt(sum_r |theta_r - mean|^2)`` of the slow weights; nothing travels for it, as this process has all."""
        every = torch.stack([replica.outer[0].state.theta for replica in self._pairs])
        return float(torch.linalg.vector_norm(every - every.mean(0), dtype=torch.float64))

    @property
    def _pairs(self) -> list[PairReplica]:
        found = [replica for replica in self._replicas if isinstance(replica, PairReplica)]
        if not found:
            raise LocalError("Replicas: without a partner all ranks have the same model after each outer step")
        return found

    @property
    def ledgers(self) -> list[Ledger]:
        """What each rank sent and received."""
        return [replica.ledger for replica in self._replicas]

    @property
    def sent_bytes(self) -> list[int]:
        """Bytes that each rank sent: the length of a message for each of its receivers."""
        return [replica.sent_bytes for replica in self._replicas]

    def state_dicts(self) -> list[dict[str, object]]:
        """The states of all ranks, each as `OuterStep.state_dict` gives it."""
        return self._exchanges.state_dicts()

    def load_state_dicts(self, states: Sequence[Mapping[str, object]]) -> None:
        """Go on from what `state_dicts` gave; the models are loaded by their owner.

        Raises:
            LocalError: a state does not fit its rank, or the ranks' states are not of one step. Nothing has changed.
        """
        if not isinstance(states, Sequence) or isinstance(states, str | bytes):
            raise LocalError(f"Replicas: expected a list of states; got {type(states).__name__}")
        if len(states) != len(self._replicas):
            raise LocalError(f"Replicas: {len(self._replicas)} ranks need as many states; got {len(states)}")
        self._exchanges.load_state_dicts(states)


def _transposed(make: MakeParts) -> Parts:
    """What every rank made for each, as what each has from every rank."""
    return list(zip(*make(), strict=True))
