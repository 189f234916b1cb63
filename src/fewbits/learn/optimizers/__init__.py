"""Server optimisers: a step on the server's model from the mean update of the clients."""

from fewbits.learn.optimizers.adam import FedAdam
from fewbits.learn.optimizers.base import Moments, ServerOptimizer
from fewbits.learn.optimizers.dyn import FedDynServer
from fewbits.learn.optimizers.fetch import FetchServer
from fewbits.learn.optimizers.sgd import ServerSGD
from fewbits.learn.optimizers.yogi import FedYogi

__all__ = ["FedAdam", "FedDynServer", "FedYogi", "FetchServer", "Moments", "ServerOptimizer", "ServerSGD"]
