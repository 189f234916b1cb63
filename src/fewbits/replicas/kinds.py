"""How the messages of a rank travel: to all ranks, in slices, or to a partner."""

from __future__ import annotations

from fewbits.replicas.pair_replica import PairReplica
from fewbits.replicas.replica import Replica
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.terms import Terms


def kind_of(terms: Terms, size: int) -> type[Replica]:
    """The class of a rank among so many."""
    if terms.partner is not None:
        return PairReplica
    return SlicedReplica if terms.sliced(size) else Replica
