"""The handshake: every rank has one process, and all processes have the same settings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.rendezvous import POLL, RendezvousStore
from fewbits.errors import DesyncError, LocalError, PeerLostError
from fewbits.facts import AS_GIVEN, NONE, shown
from fewbits.json_text import json_text

READY = "all ready"


def claim_rank(store: RendezvousStore, process: ProcessInfo) -> None:
    """Register this process under its rank; LocalError when another process has that rank."""
    if store.increment(f"claim/{process.rank}") == 1:
        return
    if store.has(READY):  # a run that has begun must not end because of this process
        raise LocalError(f"the run at {process.address} has begun and already has a node {process.rank}")
    reason = f"two processes have the node number {process.rank}; every node needs a RANK of its own"
    raise LocalError(store.report_failure(reason))


def exchange_facts(
    store: RendezvousStore, process: ProcessInfo, number: int, facts: Mapping[str, str], timeout: float
) -> list[dict[str, str]]:
    """Publish this process's facts; returns all processes' facts by rank, once all have published them.

    `number` counts the calls. Raises PeerLostError when a process is missing after `timeout` seconds or has failed.
    """
    keys = [f"facts/{number}/{rank}" for rank in range(process.size)]
    store.set(keys[process.rank], json_text(dict(facts)))
    end = time.monotonic() + timeout
    while True:
        # Read the failure first: a process may read all facts and fail because of them before this one reads them.
        failure = store.failure
        if store.has(*keys):
            break
        if failure:
            raise PeerLostError(failure)
        if time.monotonic() > end:
            missing = ", ".join(str(rank) for rank in range(process.size) if not store.has(keys[rank]))
            reason = f"node {missing} did not join within {timeout:g} s; the run needs {process.size} nodes"
            raise PeerLostError(store.report_failure(reason))
        time.sleep(POLL)
    return [json.loads(text) for text in store.get(keys)]


def check_equal(facts_by_rank: Mapping[int, Mapping[str, str]], names: Iterable[str], who: str = "node") -> None:
    """DesyncError when facts of these names differ: the same sentence on every rank, with both values.

    The names are compared in their order; `shown` says what the sentence has of a text.

    >>> check_equal({0: {"model": "w, [3]; b, [1]"}, 1: {"model": "w, [3]; b, [2]"}}, ["model"], "rank")
    Traceback (most recent call last):
    ...
    fewbits.errors.DesyncError: the ranks were not started for the same run, their model differs: rank 0 has b, [1]; \
rank 1 has b, [2]
    """
    for name in (name for name in names if not name.endswith(AS_GIVEN)):
        groups: dict[str, list[int]] = {}
        for rank, facts in facts_by_rank.items():
            groups.setdefault(facts.get(name, NONE), []).append(rank)
        if len(groups) > 1:
            texts = shown(name, [facts_by_rank[ranks[0]] for ranks in groups.values()])
            values = "; ".join(
                f"{_ranks(ranks, who)} {text}" for ranks, text in zip(groups.values(), texts, strict=True)
            )
            raise DesyncError(f"the {who}s were not started for the same run, their {name} differs: {values}")


def _ranks(ranks: list[int], who: str) -> str:
    return f"{who} {ranks[0]} has" if len(ranks) == 1 else f"{who}s {', '.join(map(str, ranks))} have"
