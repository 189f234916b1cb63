"""Floor 4: the ends of links, and what is kept of them."""

from fewbits.links.broadcast import Broadcast
from fewbits.links.downlink import Downlink
from fewbits.links.ledger import Entry, Ledger
from fewbits.links.model_frame import load_model, save_model
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.links.shared_init import SharedInit
from fewbits.links.store import StateStore
from fewbits.links.subscriber import Subscriber

__all__ = [
    "Broadcast",
    "Downlink",
    "Entry",
    "Subscriber",
    "Ledger",
    "Receiver",
    "SharedInit",
    "Sender",
    "StateStore",
    "load_model",
    "save_model",
]
