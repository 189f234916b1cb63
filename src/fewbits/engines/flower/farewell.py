"""Farewell: what a server says to its clients when a run ends, so that they remove what nobody needs again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.client_channel import ClientChannel
from fewbits.engines.flower.envelope import Envelope
from fewbits.errors import WireError

log = logging.getLogger("flwr")
LONGEST = 60.0  # seconds at most for clients to remove their state


def farewell(channel: ClientChannel, grid: Grid, timeout: float, resumable: bool) -> None:
    """Have clients remove what they stored in folders that nobody named, unless the run is resumable."""
    _count_plain(channel)
    if resumable:
        log.info("fewbits: clients keep their state, so that this run can go on")
        return
    asks = []
    for node, each in channel.registry.leaving().items():
        if each.client is not None:
            channel.forget(each.client)
        goodbye = Envelope("goodbye", 0, {"run": channel.run, "state": each.state})
        asks.append(Message(goodbye.seal(), node, channel.registry.types[node]))
    if not asks:
        return
    try:
        _log_removed(len(asks), grid.send_and_receive(asks, timeout=min(timeout, LONGEST)))
    except Exception as error:  # noqa: BLE001  the run's result is complete, whatever becomes of Flower's grid
        log.warning("fewbits: %d clients may still have the state of this run: %s", len(asks), error)


def _count_plain(channel: ClientChannel) -> None:
    """Say how many nodes took part, or did not, without our frames."""
    plain, refused = "sent plain arrays", "got nothing, by plain='refuse'"
    for what, counts in ((plain, channel.plain_rounds), (refused, channel.refused_rounds)):
        if counts.total():
            nodes = "1 node" if len(counts) == 1 else f"{len(counts)} nodes"
            channel.say(f"{nodes} {what}, {counts.total()} times in all; the ledger has no bytes of theirs")


def _log_removed(asked: int, replies: Iterable[Message]) -> None:
    """Log how many clients have removed how much."""
    done, size = 0, 0
    for reply in replies:
        data = wire.value(reply.content) if reply.has_content() else None
        try:
            found = wire.opened(data, 0) if data is not None else Envelope("nothing")
            size += found.number("bytes")
            done += 1
        except WireError:
            continue
    log.info("fewbits: %d of %d clients removed the state of this run, %s bytes", done, asked, f"{size:,}")
