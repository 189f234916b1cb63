"""Floor 4: senders and receivers, broadcasts and their subscribers, and what is stored of them."""

from fewbits.links.broadcast import Broadcast
from fewbits.links.downlink import Downlink
from fewbits.links.epochs import EpochBroadcast, EpochSubscriber
from fewbits.links.ledger import Entry, Ledger
from fewbits.links.model_frame import load_model, save_model
from fewbits.links.publisher import Publisher
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit
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
    "StateStore",
    "Subscriber",
    "Subscription",
    "load_model",
    "save_model",
]
