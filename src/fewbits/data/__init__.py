"""Floor 7: data sets and how they are divided among clients."""

from fewbits.data.dataset import Data
from fewbits.data.load import NAMES, load
from fewbits.data.partition import partition

__all__ = ["NAMES", "Data", "load", "partition"]
