"""Admission: which processes wait to be taken into a run, and which of them are refused."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.engines.distributed.elastic.liveness import Liveness
from fewbits.engines.distributed.elastic.quorum import MemberInfo, Quorum
from fewbits.engines.distributed.elastic.run_store import RunStore
from fewbits.engines.distributed.handshake import check_equal
from fewbits.facts import AS_GIVEN, NONE, shown


class Admission:
    """What one process knows of those that have come to the run.

    Args:
        store: of the run.
        liveness: of this process.
        info: of this process; newcomers must have its facts.
        member: number of this process.
    """

    def __init__(self, store: RunStore, liveness: Liveness, info: MemberInfo, member: int) -> None:
        self._store, self._liveness, self._info = store, liveness, info
        self._infos: dict[int, MemberInfo] = {member: info}
        self._done: set[int] = set()  # processes that cannot be taken in any more

    def waiting(self, present: Mapping[int, int]) -> dict[int, int]:
        """Living processes that wait to be taken in, by rank; those that do not fit are refused.

        Args:
            present: the processes that are in the run, by rank; {} before it begins.
        """
        came = range(1, self._store.count("announced", 0) + 1)
        there = self._done | {*present.values()}
        found = {self._rank_of(member, present): member for member in came if member not in there}
        return {rank: member for rank, member in found.items() if rank is not None}

    def _rank_of(self, member: int, present: Mapping[int, int]) -> int | None:
        """The rank of a process that can be taken in now; None for any other."""
        info = self._infos.get(member) or self._read(member)
        if info is None:
            return None
        ended = any(self._store.get(f"{word}/{member}") is not None for word in ("gone", "refused"))
        if ended or self._store.get(f"rank/{info.rank}") != str(member):
            self._done.add(member)
            return None
        self._liveness.watch(member)
        if self._liveness.lost(member):
            return None
        if reason := self._misfit(info, present):
            self._store.swap(f"refused/{member}", "", reason)
            self._done.add(member)
            return None
        return info.rank

    def _read(self, member: int) -> MemberInfo | None:
        """What a process says of itself; None before it has."""
        text = self._store.get(f"member/{member}")
        if text is None:
            return None
        info = MemberInfo.parse(text)
        if info is None:
            self._store.swap(f"refused/{member}", "", f"process {member} of the run sent no facts about itself")
            self._done.add(member)
            return None
        self._infos[member] = info
        return info

    def _misfit(self, info: MemberInfo, present: Mapping[int, int]) -> str:
        """Why a process cannot join a run that has begun; "" when it can."""
        if not present:
            return ""
        if info.rank in present:
            return f"rank {info.rank} is in the run already, and lives"
        name, texts = difference(self._info.facts, info.facts)
        if not name:
            return ""
        return f"rank {info.rank} does not fit the run, their {name} differs: the run has {texts[0]}; it has {texts[1]}"

    def check_alike(self, quorum: Quorum) -> None:
        """DesyncError, the same at all ranks, when ranks of a quorum have other facts than its lowest."""
        infos = {rank: self._infos.get(member) or self._read(member) for rank, member in quorum.members.items()}
        facts = {rank: info.facts if info else {} for rank, info in infos.items()}
        check_equal(facts, facts[min(facts)], "rank")


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, list[str]]:
    """The first fact that differs, and what to show of both.

    >>> difference({"every": "30", "key": "[0]"}, {"every": "50"})
    ('every', ['30', '50'])
    """
    for name in (name for name in ours if not name.endswith(AS_GIVEN)):
        if ours[name] != theirs.get(name, NONE):
            return name, shown(name, [ours, theirs])
    return "", []
