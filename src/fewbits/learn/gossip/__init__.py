"""Training without a server: `Node`, and the methods for it."""

from fewbits.learn.gossip.auto import best_gamma, tuned
from fewbits.learn.gossip.choco import Choco
from fewbits.learn.gossip.deepsqueeze import DeepSqueeze
from fewbits.learn.gossip.dsgd import DSGD
from fewbits.learn.gossip.malcom import Malcom
from fewbits.learn.gossip.method import GossipMethod
from fewbits.learn.gossip.node import Node, Train
from fewbits.learn.gossip.prox import L1, GroupL1, NoProx, Prox
from fewbits.learn.gossip.vectors import Vectors

__all__ = [
    "DSGD",
    "Choco",
    "DeepSqueeze",
    "GossipMethod",
    "GroupL1",
    "L1",
    "Malcom",
    "NoProx",
    "Node",
    "Prox",
    "Train",
    "Vectors",
    "best_gamma",
    "tuned",
]
