"""What torch.distributed's exceptions say, which have no classes of their own for it."""

from __future__ import annotations

import re


def timed_out(error: Exception) -> bool:
    """Whether a wait ended because the other rank sent nothing for too long."""
    return "Timed out" in str(error)


def line(error: Exception) -> str:
    """The first line of torch's message, without its place in torch's source.

    >>> line(RuntimeError("[pair.cc:5] Connection closed by peer. This is typically due to a bug"))
    'Connection closed by peer'
    """
    text = re.sub(r"^\[[^]]*\]\s*", "", str(error).splitlines()[0])
    return text.partition(". This is typically")[0][:200]
