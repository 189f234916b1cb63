"""SlicedReplica: a rank whose dense updates travel in slices, in two legs; bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fewbits.replicas.count import count_exchange
from fewbits.replicas.joined import joined
from fewbits.replicas.replica import Messages, Replica
from fewbits.replicas.slices import SliceEnds


class SlicedReplica(Replica):
    """One of R equal models. Each rank takes the mean of one slice of the updates, in the order of ranks, in float32:

        parts = replica.parts(due.send)                     # one for each rank
        parts = ...                                         # of each rank, for this one
        message = replica.message_of(due.send, parts)
        messages = ...                                      # of all ranks, and further as for `Replica`

    The means travel as they are, so all replicas have the same bits, and those that frames to all would give.
    """

    path = "in slices"

    def begin_links(self) -> Sequence[SliceEnds]:
        key = self.terms.key.fold("rank", self.rank)
        return [SliceEnds(part.spec, self.rank, self.size, key.fold(i)) for i, part in enumerate(self.outer)]

    def parts(self, fragment: int) -> list[memoryview]:
        """The first leg: a frame for each rank, this one included.

        Raises:
            LocalError: a value is not finite, as `Sender.send` says.
        """
        part = self.outer[fragment]

        def fill(slices: Sequence[Tensor]) -> None:
            self.tensors.difference(part.state.theta, part.names, slices)

        return self._slices(fragment).parts(fill, part.common)

    def message_of(self, fragment: int, parts: Messages) -> memoryview:
        """The second leg, for all ranks: the mean of this rank's slice; WireError when a part is damaged."""
        pieces = self._slices(fragment).mean_pieces(list(map(memoryview, parts)), self.outer[fragment].common)
        return joined([*pieces, self.beside(fragment)])

    def settle(self, fragment: int, messages: Messages) -> None:
        super().settle(fragment, messages)
        ends = self._slices(fragment)
        for peer in (peer for peer in range(self.size) if peer != self.rank):
            count_exchange(self.ledger, self.exchanges, peer, ends.sent[peer], ends.received[peer])

    def _slices(self, fragment: int) -> SliceEnds:
        ends = self.senders[fragment]
        assert isinstance(ends, SliceEnds)
        return ends
