"""mod: a Flower mod that stands between the wire and an app's own train and evaluate, which see plain arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

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
STATE = "fewbits-state"  # in the node's or the run's config: the folder for what clients remember


def mod(method: Method, key: Key = Key(0), keep: Sequence[str] = ()) -> Mod:
    """Speak `method` with a server whose strategy went through `compress`; first in the list of mods.

    `method` and `key` are the server's. `keep`: shell patterns on the names of arrays that never travel (pFedPara's
    second halves): they come back from this client's own disk. A message that is no envelope goes to the app as it is.
    """
    check(method)

    def compressed(message: Message, context: Context, call_next: App) -> Message:
        data = wire.value(message.content) if message.has_content() else None
        if data is None:
            return call_next(message, context)
        asked = Envelope("nothing")
        try:
            asked = wire.opened(data)
            answer = _answer(asked, method, key, keep, message, context, call_next)
        except FewbitsError as error:
            answer = Envelope("trouble", asked.round, {"text": str(error), "lost": isinstance(error, DesyncError)})
        return Message(answer.seal(), reply_to=message) if isinstance(answer, Envelope) else answer

    return compressed


def check(method: Method) -> None:
    """LocalError for a method of which an app's own training would be a part."""
    if not isinstance(method, Method):
        raise LocalError(f"fewbits.flower: method must be a Method or the name of one, such as 'topk'; got {method!r}")
    if method.objective.server_vectors or method.objective.client_vectors or method.normalise != "sampled":
        raise LocalError(
            f"fewbits.flower: {method.name} changes how clients train or are weighed ({method.objective!r}, normalise="
            f"{method.normalise!r}), which belongs to the app; choose a method that is about bytes alone"
        )
    if method.privacy is not None or method.masking is not None:
        raise LocalError(
            f"fewbits.flower: {method.name} protects clients by dp or masks, which only the engine `memory` carries "
            "out; take Flower's own mods for them, with a method that is about bytes alone"
        )
    if Downlink.of(method.down).personal is not None:
        raise LocalError(
            f"fewbits.flower: the downlink of {method.name} gives each client differences of its own, which only the "
            "engine `memory` and fb.Server keep account of; take delta8, delta4 or sparse"
        )


def identity(method: Method, key: Key) -> dict[str, str]:
    """What both ends must have in common, in words."""
    shared = {"uplink": method.up, "downlink": Downlink.of(method.down), "space": method.space}
    return {name: "none" if part is None else canonical(part) for name, part in shared.items()} | {"seed": key.text()}


def _answer(
    asked: Envelope,
    method: Method,
    key: Key,
    keep: Sequence[str],
    message: Message,
    context: Context,
    call_next: App,
) -> Envelope | Message:
    client, folder = _client(context), _folder(asked, context)
    with closing(ClientEnd(folder, client, method, key)) as end:
        if asked.kind == "hello":
            _compare(asked, method, key)
            return Envelope("hello", asked.round, {"client": client, "state": end.name})
        try:
            layout = end.receive(asked.round, asked.part(), asked.parts[1] if len(asked.parts) > 1 else None)
        except DesyncError:
            end.forget()
            raise
        name = asked.text("arrays")
        plain = ArrayRecord({**layout.record(end.core.model.named()), **_arrays(end.staying())})
        message.content = RecordDict({name: plain, **wire.restored(asked.fields.get("records"))})
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        fields: dict[str, object] = {"records": wire.described(reply.content), "version": end.core.down.version}
        if asked.kind != "train":
            return Envelope(asked.kind, asked.round, fields)
        fields["arrays"], trained = _only(dict(reply.content.array_records))
        stays = {n for n in trained if any(fnmatchcase(n, pattern) for pattern in keep)}
        update = layout.tensors(ArrayRecord({n: x for n, x in trained.items() if n not in stays}), "reply")
        frame = end.reply(asked.round, update)
        end.keep(asked.round, {n: torch.from_numpy(trained[n].numpy()) for n in stays})
        return Envelope("train", asked.round, fields, (frame,))


def _client(context: Context) -> int:
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise LocalError(
            f"a node needs a number of its own, as in --node-config 'partition-id=0 num-partitions=10'; got {found!r}"
        )
    return found


def _folder(asked: Envelope, context: Context) -> Path:
    """Of this run and client: in the node's state folder, the run's, or Flower's own."""
    run = asked.text("run")
    if not wire.RUN.fullmatch(run):
        raise WireError(f"a run's name has letters, digits, - and _ only, at most 64; got {run!r}")
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "fewbits"
    base = context.node_config.get(STATE) or context.run_config.get(STATE) or home
    return Path(str(base)).expanduser() / run / str(_client(context))


def _compare(asked: Envelope, method: Method, key: Key) -> None:
    """LocalError when the server speaks another method."""
    for name, ours in identity(method, key).items():
        theirs = asked.text(name)
        if theirs != ours:
            raise LocalError(f"the ends differ in their {name}: the server has {theirs}, this client {ours}")


def _only(records: Mapping[str, ArrayRecord]) -> tuple[str, ArrayRecord]:
    if len(records) != 1:
        raise LocalError(f"a reply to train needs one ArrayRecord; got {len(records)}: {sorted(records)}")
    return next(iter(records.items()))


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: Array(x.numpy()) for name, x in tensors.items()}
