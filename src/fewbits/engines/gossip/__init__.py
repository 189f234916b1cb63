"""Engine `gossip`: all nodes of a network on one machine, in processes of one thread each."""

from fewbits.engines.gossip.report import GossipReport
from fewbits.engines.gossip.result import GossipResult
from fewbits.engines.gossip.run import GossipRun

__all__ = ["GossipReport", "GossipResult", "GossipRun"]
