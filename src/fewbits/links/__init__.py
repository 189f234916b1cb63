"""Links: two ends with a shared state between them; bytes in, bytes out.

A `Sender` and a `Receiver` are one way between two peers, with commit, rollback and key frames. A `Broadcast` publishes
versions of a model to many `Subscriber`s; one that missed rounds gets the shortest bundle that brings it up to date.
`Ledger` counts what travelled, `StateStore` keeps the ends of links on disk, and `save_model` writes one frame.
"""

from fewbits.links.broadcast import Broadcast
from fewbits.links.downlink import Downlink
from fewbits.links.epochs import EpochBroadcast, EpochSubscriber
from fewbits.links.ledger import Entry, Ledger
from fewbits.links.model_frame import load_model, save_model
from fewbits.links.publisher import Publisher
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit
from fewbits.links.started import StartedBroadcast, StartedSubscriber
from fewbits.links.store import StateStore
from fewbits.links.subscriber import Subscriber
from fewbits.links.subscription import Subscription

__all__ = [
    "Broadcast",
    "Downlink",
    "Entry",
    "EpochBroadcast",
    "EpochSubscriber",
    "Ledger",
    "Publisher",
    "Receiver",
    "Sender",
    "SharedInit",
    "StartedBroadcast",
    "StartedSubscriber",
    "StateStore",
    "Subscriber",
    "Subscription",
    "load_model",
    "save_model",
]
