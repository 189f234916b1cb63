"""Engine `simulation`: one machine, processes of one thread each, frames in memory."""

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.federation import Federation, Result, RoundReport
from fewbits.engines.simulation.footprint import Footprint, footprint

__all__ = ["Federation", "Footprint", "Result", "RoundReport", "Schedule", "Task", "footprint"]
