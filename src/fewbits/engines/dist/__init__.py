"""Engine `dist`: one process per node, frames over torch.distributed (gloo; NCCL or MPI by option)."""

from fewbits.engines.dist.board import GoneError
from fewbits.engines.dist.exchange import Exchange
from fewbits.engines.dist.place import Place
from fewbits.engines.dist.run import DistRun
from fewbits.engines.dist.world import World

__all__ = ["DistRun", "Exchange", "GoneError", "Place", "World"]
