"""Floor 4: the ends of links, and what is kept of them."""

from fewbits.link.broadcast import Broadcast, Follower
from fewbits.link.ledger import Entry, Ledger
from fewbits.link.model_frame import load_model, save_model
from fewbits.link.receiver import Receiver
from fewbits.link.sender import Sender
from fewbits.link.store import StateStore

__all__ = ["Broadcast", "Entry", "Follower", "Ledger", "Receiver", "Sender", "StateStore", "load_model", "save_model"]
