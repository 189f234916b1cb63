"""homes: who plays the methods that have no server, for the call that was given one and has one."""

from __future__ import annotations

NODES = "has no server; play it with fb.gossip or fewbits gossip"
RANKS = "is for ranks of torch.distributed; give it to fb.distributed.OuterStep, or to fewbits plan --bandwidth"
HOMES = {"dsgd": NODES, "choco": NODES, "malcom": NODES, "deepsqueeze": NODES, "noloco": RANKS}


def played_elsewhere(name: str) -> str | None:
    """What to say of a method that has no server, or of one with such a layer; None for any other name.

    >>> played_elsewhere("choco")
    "method 'choco' has no server; play it with fb.gossip or fewbits gossip"
    """
    found = next((part for part in name.split("+") if part.strip() in HOMES), None)
    return None if found is None else f"method {found.strip()!r} {HOMES[found.strip()]}"
