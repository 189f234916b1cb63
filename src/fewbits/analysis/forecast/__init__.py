"""Forecast what a run would send, from real frames, before anything is trained."""

from fewbits.analysis.forecast.forecast import Forecast, Link, forecast

__all__ = ["Forecast", "Link", "forecast"]
