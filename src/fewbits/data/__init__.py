"""Data sets, and their partition among clients."""

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.data.load import NAMES, data_info, load
from fewbits.data.partition import hold_out, partition, split_notes

__all__ = ["NAMES", "Data", "DataInfo", "data_info", "hold_out", "load", "partition", "split_notes"]
