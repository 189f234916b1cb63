"""Reports of runs without a server: tables, pictures, a page."""

from fewbits.report.gossip.record import GossipRecord, against_dsgd
from fewbits.report.gossip.report import report
from fewbits.report.gossip.table import legend, rows, terminal

__all__ = ["GossipRecord", "against_dsgd", "legend", "report", "rows", "terminal"]
