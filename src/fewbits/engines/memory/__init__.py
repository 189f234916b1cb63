"""Engine `memory`: one machine, processes of one thread each, frames in memory."""

from fewbits.engines.memory.federate import federate
from fewbits.engines.memory.federation import Federation, Result, RoundReport
from fewbits.engines.memory.footprint import Footprint, footprint
from fewbits.engines.memory.schedule import Schedule
from fewbits.engines.memory.task import Task

__all__ = ["Federation", "Footprint", "Result", "RoundReport", "Schedule", "Task", "federate", "footprint"]
