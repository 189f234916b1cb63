"""Reports of finished runs: tables, pictures and pages."""

from fewbits.report.record import Record
from fewbits.report.table import Row, rows

__all__ = ["Record", "Row", "rows"]
