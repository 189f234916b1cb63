"""Engine `flower`: the same links over Flower's messages."""

from flwr.serverapp.strategy import Strategy

from fewbits.engines.flower.federated import Federated
from fewbits.engines.flower.mod import Mod, mod
from fewbits.engines.flower.quarantine import Quarantine
from fewbits.engines.flower.strategy import Compressed

__all__ = ["Compressed", "Federated", "Mod", "Quarantine", "Strategy", "mod"]
