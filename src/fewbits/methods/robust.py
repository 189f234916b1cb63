"""Over another method: what the server takes in place of the mean, and how long an update may be.

Clients send the same bytes as without these layers. Robust rules need all updates of a round in memory.
"""

from __future__ import annotations

from fewbits.checks import check_number
from fewbits.errors import LocalError
from fewbits.learn.aggregation import (
    Aggregator,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    MultiKrum,
    NormBound,
    TrimmedMean,
)
from fewbits.learn.method import Method
from fewbits.methods.dense import dense, wrap_method


def median(over: Method | None = None) -> Method:
    """Coordinate median of the updates in place of their mean, over the clients that sent a coordinate.

    Args:
        over: the method of what travels; None: dense.

    Example:
        >>> median().aggregator
        CoordinateMedian()

    Source: Yin et al., Byzantine-Robust Distributed Learning, ICML 2018.
    """
    return _aggregated("median", over, CoordinateMedian())


def trimmed(over: Method | None = None, trim: float = 0.2) -> Method:
    """Mean of each coordinate without its largest and smallest values.

    Args:
        over: the method of what travels; None: dense.
        trim: share of the values that is left out on each side, in [0, 0.5).

    Example:
        >>> trimmed(trim=0.1).aggregator
        TrimmedMean(trim=0.1)

    Source: Yin et al., Byzantine-Robust Distributed Learning, ICML 2018.
    """
    return _aggregated("trimmed", over, TrimmedMean(trim))


def krum(over: Method | None = None, liars: float = 0.2) -> Method:
    """Krum: the update of the client that lies nearest to most others.

    Args:
        over: the method of what travels; None: dense.
        liars: share of the clients that may lie, in [0, 0.5).

    Example:
        >>> krum().aggregator
        Krum(liars=0.2)

    Source: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017.
    """
    return _aggregated("krum", over, Krum(liars))


def multikrum(over: Method | None = None, liars: float = 0.2, chosen: int = 0) -> Method:
    """Multi-Krum: the mean of the updates that lie nearest to most others.

    Args:
        over: the method of what travels; None: dense.
        liars: share of the clients that may lie, in [0, 0.5).
        chosen: updates in the mean; 0: all but the share of liars.

    Example:
        >>> multikrum(chosen=3).aggregator
        MultiKrum(liars=0.2, chosen=3)

    Source: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017.
    """
    return _aggregated("multikrum", over, MultiKrum(liars, chosen))


def geomedian(over: Method | None = None, iterations: int = 32) -> Method:
    """Geometric median of the updates in place of their mean.

    Args:
        over: the method of what travels; None: dense.
        iterations: of Weiszfeld's algorithm.

    Example:
        >>> geomedian().aggregator
        GeometricMedian(iterations=32)

    Source: Pillutla et al., Robust Aggregation for Federated Learning, IEEE TSP 2022.
    """
    return _aggregated("geomedian", over, GeometricMedian(iterations))


def bounded(over: Method | None = None, times: float = 10.0) -> Method:
    """Another bound on the norm of an update; every method has one of 10 times the median.

    Args:
        over: the method of what travels; None: dense.
        times: of the median client's norm, above 1; 0: no bound.

    Example:
        >>> bounded(times=3).norm_bound, bounded(times=0).norm_bound
        (NormBound(times=3, rounds=9), None)

    Source: ours.
    """
    check_number("bounded: times", times, "[0, inf)", numpy=True)
    return wrap_method("bounded", over, norm_bound=NormBound(times) if times else None)


def _aggregated(name: str, over: Method | None, aggregator: Aggregator) -> Method:
    over = over or dense()
    if over.aggregator is not None:
        raise LocalError(f"{name}: {over.name} has {over.aggregator!r} in place of the mean already; use one of them")
    return wrap_method(name, over, aggregator=aggregator)
