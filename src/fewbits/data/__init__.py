"""Data sets, and their partition among clients."""

from fewbits.data.data_info import DataInfo
from fewbits.data.dataset import Data
from fewbits.data.load import NAMES, data_info, load
from fewbits.data.partition import check_split, hold_out, partition, split_notes

__all__ = ["NAMES", "Data", "DataInfo", "check_split", "data_info", "hold_out", "load", "partition", "split_notes"]
