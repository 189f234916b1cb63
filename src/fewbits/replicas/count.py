"""Count the messages of one exchange among all ranks in a rank's ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from fewbits.links import Entry, Ledger
from fewbits.links.ledger import stages
from fewbits.wire import Section
from fewbits.wire.frame import HEADER_BYTES


class Counted(ABC):
    """What one rank sent and received, as its ledger counts it."""

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """Every frame that this rank sent ("up", once for each receiver) and received ("down"), by exchange."""

    @property
    def sent_bytes(self) -> int:
        """Bytes of the frames that this rank sent, each as often as it has receivers."""
        return self.ledger.frame_bytes["up"]

    @property
    def received_bytes(self) -> int:
        """Bytes of the frames that this rank received."""
        return self.ledger.frame_bytes["down"]


def count_messages(
    ledger: Ledger, round: int, rank: int, lengths: Mapping[int, int], sections: Sequence[Section]
) -> None:
    """Add what this rank sent, "up" once for each receiver, and what it received, "down".

    Args:
        ledger: of this rank.
        round: number of the exchange, from 1.
        rank: this rank.
        lengths: of the messages of all ranks, in bytes, by rank.
        sections: of this rank's frame.
    """
    for peer in (peer for peer in lengths if peer != rank):
        count_exchange(ledger, round, peer, lengths[rank], lengths[peer], sections)


def count_exchange(
    ledger: Ledger, round: int, peer: int, sent: int, received: int, sections: Sequence[Section] = ()
) -> None:
    """Add a frame that was sent to a rank, and one that came from it; lengths in bytes, with headers."""
    ledger.add(Entry(round, peer, "up", sent, sent - HEADER_BYTES, stages(sections)))
    ledger.add(Entry(round, peer, "down", received, received - HEADER_BYTES))
