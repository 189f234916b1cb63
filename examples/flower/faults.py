"""Faults for a real federation: two mods around fewbits' own, and a SuperNode that loses, delays and repeats replies.

`storm.py` copies this file into a project, whose ClientApp then has the mods [outside, compressed, inside]. It starts
SuperNodes with it: `python faults.py ...` is `flower-supernode ...`. The JSON file that FEWBITS_STORM names holds the
plan. Every draw is Key(seed).fold("fate", round, client), so that a run can be repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict

from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.envelope import Envelope
from fewbits.rng import Key

FATES = ("lost", "late", "repeated", "corrupted")
ORDERS = ("lost", "late", "repeated")  # for the SuperNode; the mod itself does the rest
PATIENCE = 900.0  # seconds, of whoever waits for another process
HEARTBEAT = 10  # seconds, the least that Flower takes; its 30 would keep a killed SuperNode out for a minute
App = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class Plan:
    """The faults, by place and time; a turn is (round, client)."""

    folder: str  # for the journal and for marks
    metrics: str  # the server's file with a line per round closed
    seed: int = 0
    percent: int = 5  # of replies, for each of FATES
    liar: int | None = None  # the client none of whose replies is true
    death: tuple[int, int] | None = None  # the turn in which a SuperNode is killed
    deletion: tuple[int, int] | None = None  # the turn before which a client's state is deleted
    crash: tuple[int, int] | None = None  # the turn during which the ServerApp is killed

    def save(self) -> Path:
        """Where FEWBITS_STORM shall point."""
        path = Path(self.folder) / "plan.json"
        (path.parent / "orders").mkdir(parents=True)
        path.write_text(json.dumps(asdict(self)))
        return path

    def fate(self, round: int, client: int) -> str:
        """One of FATES, `lie`, or `fine`."""
        if client == self.liar:
            return "lie"
        draw = int(Key(self.seed).fold("fate", round, client).below(100, 1)[0])
        return FATES[draw // self.percent] if draw < len(FATES) * self.percent else "fine"

    def closed(self) -> int:
        """Rounds that the server has closed."""
        path = Path(self.metrics)
        return path.read_text().count("\n") if path.exists() else 0

    def note(self, **line: Any) -> None:
        """Into the journal, which all processes write."""
        with (Path(self.folder) / "journal.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")  # one write of a short line: lines stay whole

    def mark(self, name: str) -> bool:
        """Leave a mark; False when it is there already, so that nothing of the kind happens twice."""
        try:
            (Path(self.folder) / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def marked(self, name: str) -> bool:
        """Whether somebody has left this mark."""
        return (Path(self.folder) / name).exists()


@cache
def plan() -> Plan:
    """This run's."""
    found = json.loads(Path(os.environ["FEWBITS_STORM"]).read_text())
    return Plan(**{name: tuple(x) if isinstance(x, list) else x for name, x in found.items()})


def wait(done: Callable[[], object], what: str) -> None:
    """Until it is done; RuntimeError after PATIENCE."""
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {PATIENCE:.0f} s in vain for: {what}")
        time.sleep(0.1)


# In the ClientApp


def outside(message: Message, context: Context, call_next: App) -> Message:
    """The first mod: sees what fewbits' mod gets and gives, envelopes."""
    asked, client = wire.opened(wire.value(message.content) or b""), int(context.node_config["partition-id"])
    if asked.kind != "train":
        return call_next(message, context)
    turn = (asked.round, client)
    if turn == plan().deletion and plan().mark("deleted"):
        shutil.rmtree(str(context.node_config["fewbits-state"]))
    reply = call_next(message, context)
    found = wire.opened(wire.value(reply.content) or b"") if reply.has_content() else Envelope("error")
    said = plan().fate(*turn) if found.kind == "train" else found.kind
    plan().note(round=turn[0], client=client, fate=said)
    if said in ORDERS:
        (Path(plan().folder) / "orders" / message.metadata.message_id).write_text(f"{said} {asked.round}")
    if said == "corrupted":
        reply.content = corrupted(reply.content, *turn)
    if said == "lie":
        reply.content = lie(found)
    return reply


def inside(message: Message, context: Context, call_next: App) -> Message:
    """The last mod: sees plain arrays. Holds the app within its turn until somebody has been killed."""
    turn = (int(message.content["config"]["server-round"]), int(context.node_config["partition-id"]))
    reply = call_next(message, context)
    if turn == plan().death and plan().mark("in-the-turn"):
        wait(lambda: False, "the end of this process")
    if turn == plan().crash and plan().mark("in-the-round"):
        wait(partial(plan().marked, "server-killed"), "the end of the server")
    return reply


def corrupted(content: RecordDict, round: int, client: int) -> RecordDict:
    """One bit, anywhere in what fewbits' mod has made, is another."""
    data = bytearray(wire.value(content) or b"")
    at = int(Key(plan().seed).fold("bit", round, client).below(8 * len(data), 1)[0])
    data[at // 8] ^= 1 << at % 8
    content[wire.NAME][wire.NAME] = bytes(data)
    return content


def lie(reported: Envelope) -> RecordDict:
    """Another lie every round, all of them well sealed."""
    frame = reported.part()
    number, fields = reported.round, dict(reported.fields)
    said = fields["records"] if number % 6 in (1, 2) else []
    for _, _, values in said:
        values["num-examples"] = float("nan") if number % 6 == 1 else -5
    parts = {3: b"", 4: frame[: len(frame) // 2], 5: bytes(6_000_000)}.get(number % 6, frame)
    if number % 6 == 3:
        return RecordDict({"arrays": ArrayRecord(), **wire.restored(reported.fields["records"])})
    return Envelope("train", number + (number % 6 == 0), fields, (parts,)).seal()


# In the SuperNode


def main() -> None:
    """`flower-supernode`, whose replies go the way that the mod has ordered."""
    from flwr.supercore import heartbeat
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
    from flwr.supernode import fleet_http_connection
    from flwr.supernode import start_client_internal as supernode
    from flwr.supernode.cli import flower_supernode

    push = supernode._push_messages

    def pushing(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        def sent(message: Message, tree: Any, runtime: float) -> Any:
            order = Path(plan().folder) / "orders" / message.metadata.reply_to_message_id
            said, _, round = order.read_text().partition(" ") if order.exists() else ("fine", "", "")
            if said == "lost":
                raise ConnectionError("the plan has it that this reply is lost")
            if said == "late":
                wait(lambda: plan().closed() >= int(round), f"round {round} to close")
            missing, session = send(message, tree, runtime)
            if said != "repeated":
                return missing, session
            for name in (part.object_id for part in iterate_object_tree(tree) if part.object_id in missing):
                wait(partial(object_store.get, name), "the app to hand over its reply")
                push_object(message.metadata.run_id, session, name, object_store.get(name))
            found = send(message, tree, runtime)
            plan().note(round=int(round), again=sorted(found[0]))  # what the SuperLink wants of the second one
            return found

        push(state, object_store, sent, push_object)

    supernode._push_messages = pushing
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT
    sys.exit(flower_supernode())


if __name__ == "__main__":
    main()
