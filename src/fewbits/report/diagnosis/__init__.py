"""The report of `fewbits diagnose`: tables, a picture, a page."""

from fewbits.report.diagnosis.report import report

__all__ = ["report"]
