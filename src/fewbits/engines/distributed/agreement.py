"""agree: all ranks of a group say what they train, and refuse each other with one sentence when it differs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from fewbits.engines.distributed.handshake import check_equal
from fewbits.engines.distributed.message_gather import MessageGather
from fewbits.errors import WireError
from fewbits.json_text import json_text

MOST_BYTES = 1 << 24  # of a rank's facts
VERSION = "version of fewbits"


def agree(
    gather: MessageGather, equal: Mapping[str, str], local: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """All ranks' facts by rank; the version of fewbits is one of them.

    Args:
        gather: of the group; all ranks must call this.
        equal: facts that must be the same on every rank, compared in this order after the version.
        local: facts that may differ.

    Raises:
        DesyncError: facts in `equal` differ; the message is the same on every rank and shows both values.
        PeerLostError: a rank was lost, or refused.
    """
    equal = {VERSION: sys.modules["fewbits"].__version__, **equal}
    messages = gather(json_text({**equal, **(local or {})}).encode(), 0, MOST_BYTES)
    found = [_facts(data, rank) for rank, data in enumerate(messages)]
    check_equal(dict(enumerate(found)), equal, "rank")
    return found


def _facts(data: memoryview, rank: int) -> dict[str, str]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WireError(f"rank {rank} sent {len(data)} bytes that are no facts about its run")
    return {str(name): str(value) for name, value in found.items()}
