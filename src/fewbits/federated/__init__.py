"""The two sides of a federation, which take bytes and give bytes."""

from fewbits.federated.client import Client
from fewbits.federated.exchange import Exchange
from fewbits.federated.server import Server

__all__ = ["Client", "Exchange", "Server"]
