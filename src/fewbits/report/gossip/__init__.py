"""Reports of runs without a server: tables, pictures and a page."""

from fewbits.report.gossip.record import GossipRecord, against_dsgd
from fewbits.report.gossip.table import rows, terminal
from fewbits.report.gossip.write import write

__all__ = ["GossipRecord", "against_dsgd", "rows", "terminal", "write"]
