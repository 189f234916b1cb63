"""Learning: how clients train, how a server steps, and what a node without a server does.

`Method` puts it together: codecs, an `Objective` of local training (`FedProx`, `Scaffold`, `FedDyn`) and a step of the
server (`ServerSGD`, `FedAdam`, `FedYogi`). The step is by the mean of the updates, or by an `Aggregator` that bears
lies (`CoordinateMedian`, `Krum`). A `GossipMethod` (`DSGD`, `Choco`, `Malcom`, `DeepSqueeze`) is the same for a `Node`
of a graph. `LocalSGD` trains a `FlatModel`, whose parameters are views of one vector; `LocalTraining` does so by any
optimizer of torch's.
"""

from fewbits.learn.aggregation import (
    Aggregator,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    MultiKrum,
    NormBound,
    TrimmedMean,
)
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
from fewbits.learn.local_report import LocalReport
from fewbits.learn.local_training import LocalTraining
from fewbits.learn.method import Method
from fewbits.learn.objective import Objective
from fewbits.learn.objectives import FedDyn, FedProx, Plain, Scaffold
from fewbits.learn.optimizers import FedAdam, FedDynServer, FedYogi, ServerSGD

__all__ = [
    "Aggregator",
    "Choco",
    "CoordinateMedian",
    "DSGD",
    "DeepSqueeze",
    "FedAdam",
    "FedDyn",
    "FedDynServer",
    "FedProx",
    "FedYogi",
    "FlatModel",
    "GeometricMedian",
    "GossipMethod",
    "GroupL1",
    "Krum",
    "L1",
    "LocalReport",
    "LocalSGD",
    "LocalTraining",
    "Malcom",
    "Method",
    "MultiKrum",
    "NoProx",
    "Node",
    "NormBound",
    "Objective",
    "Plain",
    "Scaffold",
    "ServerSGD",
    "TrimmedMean",
    "IntrinsicSpace",
]
