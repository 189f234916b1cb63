"""Floor 5: local training, server optimisers, and the two sides of a federation."""

from fewbits.learn.flat_model import FlatModel
from fewbits.learn.gossip import (
    DSGD,
    L1,
    Choco,
    DeepSqueeze,
    GossipMethod,
    GroupL1,
    Malcom,
    Node,
    NoProx,
)
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.local import LocalSGD
from fewbits.learn.method import Method
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import FedDyn, FedProx, Plain, Scaffold
from fewbits.learn.optimizers import FedAdam, FedDynServer, FedYogi, ServerSGD

__all__ = [
    "Choco",
    "DSGD",
    "DeepSqueeze",
    "FedAdam",
    "FedDyn",
    "FedDynServer",
    "FedProx",
    "FedYogi",
    "FlatModel",
    "GossipMethod",
    "GroupL1",
    "L1",
    "LocalSGD",
    "Malcom",
    "Method",
    "NoProx",
    "Node",
    "Objective",
    "Plain",
    "Scaffold",
    "ServerSGD",
    "IntrinsicSpace",
]
