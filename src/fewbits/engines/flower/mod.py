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
from flwr.app import Array, ArrayRecord, Context, Message

from fewbits.engines.flower import carried, client_end
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_end import ClientEnd
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import DesyncError, FewbitsError, LocalError, WireError
from fewbits.learn.method import Method
from fewbits.learn.objectives import Plain
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
    if not keep and (method.private or (method.factor is not None and method.factor.form == "pfedpara")):
        raise LocalError(
            f"fewbits.flower.mod: {method.name} leaves arrays with the clients; name them in keep=[patterns], and "
            "leave them out of the server's initial_arrays"
        )

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
    if method.objective != Plain() or method.normalise != "sampled":
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
    shared["inside"] = method.inside
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
        if request.fields.get("custom"):
            return _custom(request, end, keep, message, context, call_next)
        bundle, known, as_they_are = (*request.parts, b"", b"", b"")[:3]
        try:
            layout = end.receive(request.round, bundle, known or None)
            whole = end.carry(request.round, request.fields.get("carried", ""), as_they_are)
        except DesyncError:
            end.forget()
            raise
        name = request.text("arrays")
        plain = ArrayRecord({**whole, **_arrays(end.private_arrays())})
        message.content = wire.together({name: plain}, request)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        fields: dict[str, object] = {"records": wire.described(reply.content), "version": end.core.down.version}
        if "carried" in request.fields:
            fields["carried"] = request.fields["carried"]
        if request.kind != "train":
            arrays = {n: _parted(record, keep)[1] for n, record in reply.content.array_records.items()}
            return Envelope(request.kind, request.round, fields, (carried.dump(arrays, "reply"),) if arrays else ())
        fields["arrays"], trained = _only(dict(reply.content.array_records))
        stays, travels = _parted(trained, keep)
        update, rest = layout.tensors(travels, "reply"), end.changed(travels)
        frame = end.reply(request.round, update, request.fields.get("values", "none"))
        end.store_private(request.round, stays)
        return Envelope("train", request.round, fields, (frame, rest) if rest else (frame,))


def _custom(
    request: Envelope, end: ClientEnd, keep: Sequence[str], message: Message, context: Context, call_next: App
) -> Envelope | Message:
    """A message with arrays of its own: they travel as they are, and so do those of the reply."""
    arrays = carried.load(request.part())
    if len(arrays) == 1:
        arrays = {name: ArrayRecord({**record, **_arrays(end.private_arrays())}) for name, record in arrays.items()}
    message.content = wire.together(arrays, request)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    parted = {name: _parted(record, keep) for name, record in reply.content.array_records.items()}
    if request.kind == "train" and len(parted) == 1:
        end.store_private(request.round, next(iter(parted.values()))[0])
    part = carried.dump({name: travels for name, (_, travels) in parted.items()}, "reply")
    return Envelope(request.kind, request.round, {"records": wire.described(reply.content), "custom": True}, (part,))


def _parted(trained: ArrayRecord, keep: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, Array]]:
    """(the arrays that never travel, the others)."""
    stays = {n for n in trained if any(fnmatchcase(n, pattern) for pattern in keep)}
    private = {n: torch.from_numpy(trained[n].numpy()) for n in trained if n in stays}
    return private, {n: x for n, x in trained.items() if n not in stays}


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
