"""Figures as text."""

from __future__ import annotations

from decimal import Decimal

NONE = "–"  # where there is no figure


def megabytes(count: float) -> str:
    """Bytes in units of 10^6, with two or three figures and no exponent.

    >>> megabytes(2_310_000), megabytes(960), megabytes(7.5)
    ('2.31', '0.00096', '0.0000075')
    """
    value = count / 1e6
    if value < 1:
        return f"{value:.3f}" if value >= 0.01 else f"{Decimal(f'{value:.2g}'):f}"
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f}"


def size(count: float) -> str:
    """A byte count with its unit, in powers of 1000.

    >>> size(20_000_000)
    '20 MB'
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit * 0.9995:
            return f"{count / unit:,.3g} {name}"
    return f"{count:.3g} B"


def times(count: float | None) -> str:
    """How many times fewer."""
    if count is None:
        return NONE
    return f"{count:.3g}" if count < 1000 else f"{count:,.0f}"


def duration(seconds: float) -> str:
    """A span of time with its unit.

    >>> duration(8.2), duration(75), duration(600), duration(9000)
    ('8 s', '75 s', '10 min', '2 h 30 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
