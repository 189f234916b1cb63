"""Forecast the bytes of a run from a few encoded frames, before anything is trained."""

from fewbits.analysis.forecast.forecast import Forecast, Link, forecast

__all__ = ["Forecast", "Link", "forecast"]
