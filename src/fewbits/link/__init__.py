"""Floor 4: the ends of links, and what is kept of them."""

from fewbits.link.broadcast import Broadcast
from fewbits.link.downlink import Downlink
from fewbits.link.follower import Follower
from fewbits.link.ledger import Entry, Ledger
from fewbits.link.model_frame import load_model, save_model
from fewbits.link.receiver import Receiver
from fewbits.link.seed import Seed
from fewbits.link.sender import Sender
from fewbits.link.store import StateStore

__all__ = [
    "Broadcast",
    "Downlink",
    "Entry",
    "Follower",
    "Ledger",
    "Receiver",
    "Seed",
    "Sender",
    "StateStore",
    "load_model",
    "save_model",
]
