"""One model on several machines with torch.distributed: outer steps and a communication hook over any codec.

`OuterStep` exchanges pseudo-gradients every few steps of a loop of yours, as DiLoCo does; with `Elastic` ranks may die
and join. `comm_hook` is for the gradients of DistributedDataParallel, in every step. Both send real frames over a gloo
group of their own, and count them. `Replicas` plays all ranks in one process, with the same frames and the same model.
Nodes of a graph without a common model are `fb.gossip`.
"""

from fewbits.engines.distributed import Elastic, HookState, OuterStep, comm_hook
from fewbits.replicas import RandomPartner, RankChange, Replicas, Streaming

__all__ = ["Elastic", "HookState", "OuterStep", "RandomPartner", "RankChange", "Replicas", "Streaming", "comm_hook"]
