"""Runs on one machine: the parts that `federate`, `gossip` and `compare` put together, and what they return.

A `Task` is a model with data cut into clients, a `Schedule` says how many rounds and who takes part. `Federation` plays
the rounds with a server and `GossipRun` those without; both are iterators over reports and continue from a folder. Use
them when one call is too little: personal models, a stop in the middle, a look at each round.
"""

from fewbits.comparison import Comparison
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.gossip import GossipReport, GossipResult, GossipRun
from fewbits.engines.simulation import Federation, Footprint, Result, RoundReport, footprint
from fewbits.report import Record, Row
from fewbits.trackers import Observer

__all__ = [
    "Comparison",
    "Federation",
    "Footprint",
    "GossipReport",
    "GossipResult",
    "GossipRun",
    "Observer",
    "Record",
    "Result",
    "RoundReport",
    "Row",
    "Schedule",
    "Task",
    "footprint",
]
