"""How much memory a robust rule may take, in a sentence."""

from __future__ import annotations

import os

from fewbits.learn.aggregation.aggregator import Aggregator

SHARE = 0.5  # of the machine's memory that needs no word


def memory_note(aggregator: Aggregator | None, clients: int, numel: int, machine: int | None = None) -> list[str]:
    """A sentence, where the dense updates of a round would take more than half of the machine's memory.

    Args:
        aggregator: the method's.
        clients: in a round.
        numel: numbers in an update.
        machine: bytes of memory; None: this machine's.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if machine is None else machine
    needed = 4 * clients * numel
    if aggregator is None or needed <= SHARE * machine:
        return []
    return [
        f"{aggregator!r} holds all updates of a round: {clients} of {numel:,} numbers are {needed / 1e9:.1f} GB when "
        f"they are dense, and this machine has {machine / 1e9:.1f} GB; sample fewer clients, or send fewer numbers"
    ]
