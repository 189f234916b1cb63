"""Engine `distributed`: one process per node, frames over torch.distributed (gloo; NCCL or MPI by option)."""

from fewbits.engines.distributed.comm_hook import HookState, comm_hook
from fewbits.engines.distributed.elastic import Elastic
from fewbits.engines.distributed.frame_exchange import FrameExchange
from fewbits.engines.distributed.outer_step import OuterStep
from fewbits.engines.distributed.process_info import ProcessInfo
from fewbits.engines.distributed.run import DistributedRun
from fewbits.engines.distributed.world import World
from fewbits.errors import PeerLostError

__all__ = [
    "DistributedRun",
    "Elastic",
    "FrameExchange",
    "HookState",
    "OuterStep",
    "PeerLostError",
    "ProcessInfo",
    "World",
    "comm_hook",
]
