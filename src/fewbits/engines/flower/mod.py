"""mod: a Flower mod between the wire and an app's train and evaluate functions, which see plain arrays."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fewbits.engines.flower import client_end
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_end import ClientEnd
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import DesyncError, FewbitsError, LocalError, WireError
from fewbits.learn.method import Method
from fewbits.links import Downlink
from fewbits.rng import Key
from fewbits.wire.identity import canonical

App = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, App], Message]
log = logging.getLogger("flwr")
STATE = "fewbits-state"  # in the node's or the run's config: the folder for what clients remember


def mod(method: Method, key: Key = Key(0), keep: Sequence[str] = ()) -> Mod:
    """A Flower mod that speaks `method` with a server whose strategy went through `compress`. Put it first in the list.

    A message that is no envelope goes to the app unchanged.

    Args:
        method: the server's.
        key: the server's.
        keep: shell patterns on the names of arrays that never travel; they come from this client's disk.

    Raises:
        LocalError: the method changes local training.
    """
    check(method)

    def compressed(message: Message, context: Context, call_next: App) -> Message:
        data = wire.value(message.content) if message.has_content() else None
        if data is None:
            return call_next(message, context)
        request = Envelope("nothing")
        try:
            request = wire.opened(data)
            answer = _answer(request, method, key, keep, message, context, call_next)
        except FewbitsError as error:
            answer = Envelope("trouble", request.round, {"text": str(error), "lost": isinstance(error, DesyncError)})
        return Message(answer.seal(), reply_to=message) if isinstance(answer, Envelope) else answer

    return compressed


def check(method: Method) -> None:
    """Reject methods that change local training with LocalError; on Flower that belongs to the app."""
    if not isinstance(method, Method):
        raise LocalError(f"fewbits.flower: method must be a Method or the name of one, such as 'topk'; got {method!r}")
    if method.objective.server_vectors or method.objective.client_vectors or method.normalise != "sampled":
        raise LocalError(
            f"fewbits.flower: {method.name} changes how clients train or are weighed ({method.objective!r}, normalise="
            f"{method.normalise!r}), which belongs to the app; choose a method that is about bytes alone"
        )
    if method.privacy is not None or method.masking is not None:
        raise LocalError(
            f"fewbits.flower: {method.name} protects clients by dp or masks, which only the engine `simulation` and a "
            "hand-written loop carry out; take Flower's own mods for them, with a method that is about bytes alone"
        )
    if Downlink.of(method.down).personal is not None:
        raise LocalError(
            f"fewbits.flower: the downlink of {method.name} sends each client its own differences, which only the "
            "engine `simulation` and a hand-written loop keep account of; take delta8, delta4 or sparse"
        )


def identity(method: Method, key: Key) -> dict[str, str]:
    """What both ends must have in common, as text."""
    shared = {"uplink": method.up, "downlink": Downlink.of(method.down), "space": method.space}
    return {name: "none" if part is None else canonical(part) for name, part in shared.items()} | {"seed": key.text()}


def _answer(
    request: Envelope,
    method: Method,
    key: Key,
    keep: Sequence[str],
    message: Message,
    context: Context,
    call_next: App,
) -> Envelope | Message:
    client, (base, temporary) = _client(context), _base(context)
    folder = base / _run(request) / str(client)
    if request.kind == "goodbye":
        return _leave(request, method, key, folder, client)
    with closing(ClientEnd(folder, client, method, key)) as end:
        if request.kind == "hello":
            _compare(request, method, key)
            _log_place(base, temporary)
            return Envelope("hello", request.round, {"client": client, "state": end.name, "temporary": temporary})
        try:
            layout = end.receive(request.round, request.part(), request.parts[1] if len(request.parts) > 1 else None)
        except DesyncError:
            end.forget()
            raise
        name = request.text("arrays")
        plain = ArrayRecord({**layout.record(end.core.model.named()), **_arrays(end.private_arrays())})
        message.content = RecordDict({name: plain, **wire.restored(request.fields.get("records"))})
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        fields: dict[str, object] = {"records": wire.described(reply.content), "version": end.core.down.version}
        if request.kind != "train":
            return Envelope(request.kind, request.round, fields)
        fields["arrays"], trained = _only(dict(reply.content.array_records))
        stays = {n for n in trained if any(fnmatchcase(n, pattern) for pattern in keep)}
        update = layout.tensors(ArrayRecord({n: x for n, x in trained.items() if n not in stays}), "reply")
        frame = end.reply(request.round, update)
        end.store_private(request.round, {n: torch.from_numpy(trained[n].numpy()) for n in stays})
        return Envelope("train", request.round, fields, (frame,))


def _client(context: Context) -> int:
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise LocalError(
            f"a node needs a number of its own, as in --node-config 'partition-id=0 num-partitions=10'; got {found!r}"
        )
    return found


def _run(request: Envelope) -> str:
    run = request.text("run")
    if not wire.RUN.fullmatch(run):
        raise WireError(f"a run's name has letters, digits, - and _ only, at most 64; got {run!r}")
    return run


def _base(context: Context) -> tuple[Path, bool]:
    """The folder of all runs, and whether nobody named it: the node's, the run's, or one in Flower's own."""
    named = context.node_config.get(STATE) or context.run_config.get(STATE)
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "fewbits"
    return (Path(str(named)).expanduser(), False) if named else (home, True)


@cache
def _log_place(base: Path, temporary: bool) -> None:
    """Log once per process where clients store their state, and what is there already."""
    stays = f"until the run ends, or for good if the server has state=; {STATE} names another place"
    found = f"{client_end.size(base):,} bytes are there now"
    log.info("fewbits: state is in %s, %s; %s", base, stays if temporary else "and stays there", found)


def _leave(request: Envelope, method: Method, key: Key, folder: Path, client: int) -> Envelope:
    """Remove this run's state at its end, when the server names the state that it was told of."""
    if not folder.is_dir():
        return Envelope("goodbye", 0, {"bytes": 0})
    with closing(ClientEnd(folder, client, method, key)) as end:
        if request.text("state") != end.name:
            raise WireError("a goodbye to another state than this node's")
    return Envelope("goodbye", 0, {"bytes": client_end.remove(folder, client, method, key)})


def _compare(request: Envelope, method: Method, key: Key) -> None:
    """LocalError when the server speaks another method."""
    for name, ours in identity(method, key).items():
        theirs = request.text(name)
        if theirs != ours:
            raise LocalError(f"the ends differ in their {name}: the server has {theirs}, this client {ours}")


def _only(records: Mapping[str, ArrayRecord]) -> tuple[str, ArrayRecord]:
    if len(records) != 1:
        raise LocalError(f"a reply to train needs one ArrayRecord; got {len(records)}: {sorted(records)}")
    return next(iter(records.items()))


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: Array(x.numpy()) for name, x in tensors.items()}
