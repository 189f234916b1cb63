"""Floor 5: local training, server optimisers, and the two sides of a federation."""

from fewbits.learn.client import Client
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.learn.method import Method
from fewbits.learn.optimizers import FedAdam, ServerSGD
from fewbits.learn.server import Server

__all__ = ["Client", "FedAdam", "FlatModel", "LocalSGD", "Method", "Server", "ServerSGD"]
