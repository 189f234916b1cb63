"""OuterStep: the replicas of one model on several machines exchange pseudo-gradients every few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from fewbits.checks import check_number
from fewbits.engines.distributed.agreement import agree
from fewbits.engines.distributed.elastic import Elastic, ElasticRanks
from fewbits.engines.distributed.in_background import in_background
from fewbits.engines.distributed.message_gather import TIMEOUTS, MessageGather
from fewbits.errors import LocalError
from fewbits.learn.optimizers import ServerOptimizer
from fewbits.links import Ledger
from fewbits.replicas import (
    AT_ONCE,
    DENSE,
    AnyMethod,
    Counted,
    Exchanges,
    Flight,
    Make,
    RankChange,
    Replica,
    Streaming,
    Terms,
)
from fewbits.replicas.exchanges import MakeParts, Parts
from fewbits.replicas.kinds import kind_of
from fewbits.replicas.pair_exchanges import PairExchanges
from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.partners import RandomPartner
from fewbits.rng import Key

START = "values at the start"


class OuterStep(Counted):
    """Outer steps among the ranks of torch.distributed, each with the whole model: DiLoCo over any codec.

    Each rank trains its own replica. At every `every`-th call of `step` all ranks send start - now through the codec
    as a frame to each of the others. All decode all frames, in the order of ranks, and take the same outer step:
    ``u = mean_r decode(start - now_r)``, ``theta = optimizer(theta, u)``. Then every replica has the same bits. Dense
    frames of three ranks or more travel in slices: each rank takes the mean of one, and sends it to all.

    Parameters and float buffers travel as float32, whatever their type; buffers losslessly, and their mean is taken.
    Saved buffers of integers become rank 0's. Frozen parameters must be equal. The inner optimizer is yours and stays
    as it is. Every frame that a rank sends is counted in `ledger`; 24 bytes before each of them are not, nor is the
    start.

    At the start all ranks compare model, method, `every`, optimizer, key and version. Where their values differ,
    rank 0's are sent to all. Only the uplink of a method is used: there is no server, and no bound on norms.

    Args:
        model: any module. It may be on a GPU; frames are made on the CPU.
        method: as text (`"topk@fraction=0.01"`), a Method, or a codec; by default float32 as it is. With
            RandomPartner(codec), or "noloco", a frame travels to one random rank, in place of all. The replicas then
            differ, each with slow weights and momentum of its own, until `average` is called. A codec takes NoLoCo's
            step, ServerSGD(lr=0.7, momentum=0.5). Buffers of integers stay each rank's own.
        every: inner steps between two exchanges of the same tensors, H.
        optimizer: the outer step; None: the method's own, which for most is the plain mean of FedAvg; or for a codec
            that of DiLoCo, ServerSGD(lr=0.7, momentum=0.9, nesterov=True).
        group: the ranks, of any backend; None: all. Frames travel over a gloo group of the same ranks. Or an `Elastic`:
            ranks may die and join, and no process group is needed.
        key: all random numbers are drawn from it.
        timeout: seconds to wait for another rank at an exchange. One that has died is noticed at once. With `Elastic`
            the others then go on without it.
        streaming: parts of the model that travel in turn, each every `every` steps, while training goes on. With
            several parts the replicas are equal only in the one that travelled last; see `values`.

    Raises:
        LocalError: torch.distributed is not initialised, or an argument does not fit.
        DesyncError: the ranks differ; the sentence is the same on all of them and has both values.
        PeerLostError: a rank has ended, is too late, or has an error of its own.

    Example:

        outer = fb.distributed.OuterStep(model, fb.chain(fb.Quantize(bits=4), fb.Rans()), every=30)
        for batch in data:
            loss(model, batch).backward()
            inner.step()
            inner.zero_grad()
            outer.step()

    References:
        Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, 2023; fragments: Douillard
        et al., Streaming DiLoCo with overlapping communication, 2025.
    """

    def __init__(
        self,
        model: nn.Module,
        method: AnyMethod | RandomPartner = DENSE,
        every: int = 30,
        optimizer: ServerOptimizer | None = None,
        group: Any = None,
        key: Key = Key(0),
        timeout: float = 1800.0,
        streaming: Streaming = AT_ONCE,
    ) -> None:
        self._elastic: ElasticRanks | None = None
        if isinstance(group, Elastic):
            check_number("OuterStep: timeout", timeout, TIMEOUTS)
            options = group.filled()
            terms = Terms.of(method, optimizer, every, streaming, key)
            if terms.partner is not None:
                raise LocalError("OuterStep: with Elastic frames go to all ranks; give RandomPartner a process group")
            self._replica = Replica(model, terms, options.rank or 0, 1)
            self._elastic = ElasticRanks(options, self._replica, timeout)
            self._exchanges = Exchanges([self._replica], self._elastic.carry, self._scatter)
            return
        self._gather = MessageGather(group, timeout, "OuterStep")
        with self._gather.refusing():
            terms = Terms.of(method, optimizer, every, streaming, key)
            self._replica = kind_of(terms, self._gather.size)(model, terms, self._gather.rank, self._gather.size)
        if isinstance(self._replica, PairReplica):
            self._exchanges = PairExchanges([self._replica], self._swap, self._confirm)
        else:
            self._exchanges = Exchanges([self._replica], self._carry, self._scatter)
        self._agree()

    def _agree(self) -> None:
        replica = self._replica
        found = agree(self._gather, replica.facts(), {START: replica.start_digest()})
        if len({facts.get(START) for facts in found}) > 1:
            snapshot = replica.snapshot() if self._gather.rank == 0 else b""
            replica.restart(self._gather(snapshot, 0, replica.most_bytes)[0])

    def step(self) -> bool:
        """Count an inner step; True when an outer step was taken after it.

        When a rank refuses, nothing has changed on any: after its repair, the next call on all ranks makes the exchange
        anew. With a delay, all ranks raise when the frames would be used.

        Raises:
            DesyncError: the ranks are at different steps, or their parameters differ.
            PeerLostError: another rank refused, or was lost; the text names it where it is known. After a loss, start
                again from a checkpoint. With `Elastic`: the others went on without this rank, or the store, all ranks
                that have the model, or more than `min_ranks` allows were lost; make OuterStep anew.
            LocalError: this rank's values are not finite, or its model is not the one of the start.
            WireError: the outer step would leave the range of the model's floats.
        """
        if self._elastic is None:
            return self._exchanges.step()
        self._elastic.admit()  # where the last step was refused
        landed = self._exchanges.step()
        if landed:
            self._elastic.admit()
        return landed

    def _carry(self, make: Make) -> Flight:
        """Send this rank's message; what waits for those of all ranks."""
        replica = self._replica
        with self._gather.refusing():
            (message,) = make()
        gather = partial(self._gather, message, replica.note, replica.most_bytes)
        return in_background(gather) if replica.terms.streaming.delay else gather

    def _scatter(self, make: MakeParts) -> Parts:
        """Send each rank its part; what all ranks sent to this one."""
        replica = self._replica
        with self._gather.refusing():
            (parts,) = make()
        return [self._gather.scatter(parts, replica.note, replica.most_bytes)]

    def _swap(self, make: Make) -> list[memoryview]:
        """Exchange messages with the partner alone."""
        replica = self._pair
        with self._gather.refusing(replica.peers):
            (message,) = make()
        return self._gather(message, replica.note, replica.most_bytes, replica.peers)

    def _confirm(self, prepare: Callable[[], object]) -> None:
        """A step that one of the partners cannot take is taken by neither."""
        replica = self._pair
        with self._gather.refusing(replica.peers):
            prepare()
        self._gather(b"", replica.note, 0, replica.peers)

    @property
    def _pair(self) -> PairReplica:
        if isinstance(self._replica, PairReplica):
            return self._replica
        raise LocalError("OuterStep: without a partner all ranks have the same model after each outer step")

    def average(self) -> float:
        """Replace the models of all ranks, which differ with a RandomPartner, by their mean; call it on all of them.

        Every rank sends its model in float32 to all others, which the ledger counts. Slow weights become the mean, too,
        and buffers of integers rank 0's. The outer optimizer's moments stay, so training may go on.

        Returns:
            The consensus distance before, ``sqrt(sum_r |theta_r - mean|^2)``.

        Raises:
            LocalError: there is no RandomPartner, or a value is not finite.
            PeerLostError: another rank refused, or was lost.
            WireError: the mean would leave the range of the model's floats. Nothing has changed.
        """
        replica = self._pair
        assert isinstance(self._exchanges, PairExchanges)
        with self._gather.refusing():
            message = replica.average_message()
        return self._exchanges.average(self._gather(message, replica.note, replica.most_bytes))

    @property
    def whose(self) -> str:
        """Whose model this rank has: "rank 2's own, one of 4", or the mean's; its states say it, too."""
        return self._replica.whose

    @property
    def partner_distance(self) -> float:
        """2-norm of the difference between what this rank and its last partner sent; 0 before the first exchange."""
        return self._pair.distance

    def values(self) -> dict[str, Tensor]:
        """Copies of the outer model's tensors by name: what to evaluate with `streaming`.

        They are the same at all ranks; with a RandomPartner they are this rank's slow weights.
        """
        return self._replica.values()

    @property
    def steps(self) -> int:
        """Inner steps so far."""
        return self._replica.steps

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that are there."""
        return self._replica.ranks

    @property
    def changes(self) -> list[RankChange]:
        """Which ranks left and joined, and why; empty without `Elastic`."""
        return list(self._elastic.changes) if self._elastic is not None else []

    def leave(self) -> None:
        """Leave a run with `Elastic`; the others go on at once. Without it, nothing happens."""
        if self._elastic is not None:
            self._elastic.leave()

    @property
    def ledger(self) -> Ledger:
        """Every frame that this rank sent ("up", once for each receiver) and received ("down"), by outer step."""
        return self._replica.ledger

    def state_dict(self) -> dict[str, object]:
        """This rank's state for a checkpoint: theta, moments and the ends of links, error feedback among them.

        It holds tensors, texts and numbers, so `torch.load(weights_only=True)` reads it. Every rank has a state of its
        own. Save the model and the inner optimizer beside it.
        """
        return self._exchanges.state_dicts()[0]

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from this rank's `state_dict`, on all ranks; the same steps then give the same bits.

        Raises:
            LocalError: the state is of another rank, model or method; the text has both values. Nothing has changed.
        """
        self._exchanges.load_state_dicts([state])
