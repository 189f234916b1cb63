"""Engine `simulation`: one machine, processes of one thread each, frames in memory."""

from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.federation import Federation
from fewbits.engines.simulation.footprint import Footprint, footprint
from fewbits.engines.simulation.result import Result
from fewbits.engines.simulation.round_report import RoundReport

__all__ = ["Federation", "Footprint", "Result", "RoundReport", "Schedule", "Task", "footprint"]
