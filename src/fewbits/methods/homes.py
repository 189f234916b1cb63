"""homes: who plays the methods that have no server, or that a budget chooses; for a call that was given another's."""

from __future__ import annotations

AUTO = "auto"  # in place of a method's name
NODES = "has no server; play it with fb.gossip or fewbits gossip"
RANKS = "is for ranks of torch.distributed; give it to fb.distributed.OuterStep, or to fewbits plan --bandwidth"
CHOSEN = "is for fb.federate and fewbits train, which choose by a budget, and takes no options"
HOMES = {"dsgd": NODES, "choco": NODES, "malcom": NODES, "deepsqueeze": NODES, "noloco": RANKS, AUTO: CHOSEN}


def played_elsewhere(name: str) -> str | None:
    """What to say of a method that has another home, or of one with such a layer; None for any other name.

    >>> played_elsewhere("choco")
    "method 'choco' has no server; play it with fb.gossip or fewbits gossip"
    >>> played_elsewhere("choco+topk")
    "method 'choco' stands alone, not as in 'choco+topk', and has no server; play it with fb.gossip or fewbits gossip"
    """
    found = next((part for part in map(str.strip, name.split("+")) if part in HOMES), None)
    if found is None:
        return None
    alone = f"stands alone, not as in {name!r}, and " if "+" in name else ""
    return f"method {found!r} {alone}{HOMES[found]}"
