"""Quorum: the ranks that exchange until the next one leaves or joins; and what they decide of an exchange."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from fewbits.errors import WireError
from fewbits.json_text import json_text

COMMIT, ABORT = "commit", "abort: "
MOST = 2**31


class Quorum(NamedTuple):
    """The ranks that are there, for a while.

    Args:
        number: from 0; each one has its own.
        members: the process of each rank, by rank, in ascending order.
        left: why a rank of the quorum before is gone, by rank.
    """

    number: int
    members: dict[int, int]
    left: dict[int, str]

    def text(self) -> str:
        """For the store.

        >>> Quorum(1, {0: 1, 2: 5}, {1: "rank 1 left"}).text()
        '{"members": {"0": 1, "2": 5}, "left": {"1": "rank 1 left"}}'
        """
        return json_text({"members": self.members, "left": self.left})

    @staticmethod
    def parse(number: int, text: str) -> Quorum:
        """Read what `text` gave; WireError for anything else."""
        try:
            found = json.loads(text)
            members = {int(rank): member for rank, member in found["members"].items()}
            left = {int(rank): str(reason) for rank, reason in found["left"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise WireError(f"the store has no quorum {number}, but {text[:80]!r}") from None
        if not members or not all(_whole(n) for pair in members.items() for n in pair):
            raise WireError(f"the store has a quorum {number} without ranks: {text[:80]!r}")
        return Quorum(number, dict(sorted(members.items())), left)


class Decision(NamedTuple):
    """What becomes of an exchange, at all ranks of a quorum.

    Args:
        committed: all ranks have all frames, and take the outer step; else none does, and the quorum has ended.
        reason: why the quorum has ended.
        joining: the next quorum, where ranks join after this outer step.
    """

    committed: bool
    reason: str = ""
    joining: Quorum | None = None

    @staticmethod
    def commit_text(joining: Quorum | None) -> str:
        """For the store."""
        return COMMIT + (joining.text() if joining else "")

    @staticmethod
    def abort_text(reason: str) -> str:
        """For the store."""
        return ABORT + reason

    @staticmethod
    def parse(number: int, text: str) -> Decision:
        """Read a decision in quorum `number`; WireError for anything else."""
        if text.startswith(ABORT):
            return Decision(False, text.removeprefix(ABORT))
        if not text.startswith(COMMIT):
            raise WireError(f"the store has no decision of quorum {number}, but {text[:80]!r}")
        rest = text.removeprefix(COMMIT)
        return Decision(True, joining=Quorum.parse(number + 1, rest) if rest else None)


class MemberInfo(NamedTuple):
    """What a process says of itself when it joins."""

    rank: int
    process: str  # such as "process 4711 on host"
    facts: dict[str, str]

    def text(self) -> str:
        """For the store."""
        return json_text(self._asdict())

    @staticmethod
    def parse(text: str) -> MemberInfo | None:
        """Read what `text` gave; None for anything else."""
        try:
            found: Any = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, Mapping) or not _whole(found.get("rank")) or not isinstance(found.get("facts"), dict):
            return None
        facts = {str(name): str(value) for name, value in found["facts"].items()}
        return MemberInfo(found["rank"], str(found.get("process")), facts)


def _whole(x: object) -> bool:
    return type(x) is int and 0 <= x < MOST
