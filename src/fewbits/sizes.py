"""Counts of bytes as people write them: 2MB for a run, 20kB/client for each of its clients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from fewbits.checks import check_whole
from fewbits.errors import LocalError

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}  # decimal
EACH = "/client"
MOST = 2**63 - 1
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def read_size(what: str, value: object) -> int:
    """Bytes of a text such as 2MB, or of a whole number of bytes; LocalError for anything else.

    >>> read_size("budget", "2.5MB"), read_size("budget", 800)
    (2500000, 800)
    >>> read_size("budget", "2mb")
    Traceback (most recent call last):
    fewbits.errors.LocalError: budget must be a size in B, kB, MB or GB, such as 2MB; got '2mb'; did you mean '2MB'?
    """
    if not isinstance(value, str):
        check_whole(what, value, 1, MOST, numpy=True, hint=" of bytes, or a text such as '2MB'")
        return int(value)  # pyright: ignore[reportArgumentType] - a whole number
    found = _SIZE.fullmatch(value.strip())
    if found is None or found[2] not in UNITS:
        raise LocalError(f"{what} must be a size in B, kB, MB or GB, such as 2MB; got {value!r}{_meant(found)}")
    count = Decimal(found[1]) * UNITS[found[2]]
    if count != int(count) or not 1 <= count <= MOST:
        raise LocalError(f"{what} must be a whole number of bytes in 1..{MOST}; got {value!r}, which is {count:f} B")
    return int(count)


def read_sizes(text: str | None) -> tuple[int, ...]:
    """Sizes separated by commas, ascending; none of a missing text.

    >>> read_sizes("10MB, 1MB")
    (1000000, 10000000)
    """
    return () if text is None else checked_sizes([part.strip() for part in text.split(",")])


def checked_sizes(at: Sequence[int | str]) -> tuple[int, ...]:
    """Bytes of each size, ascending; LocalError unless they are a list of sizes."""
    if not isinstance(at, Sequence) or isinstance(at, str | bytes):
        raise LocalError(f"at must be a list of sizes, such as ['1MB', '10MB']; got {at!r}")
    return tuple(sorted({read_size("at", size) for size in at}))


def read_budget(value: object, clients: int) -> int:
    """Bytes of a whole run: of a size as `read_size` takes it, or of SIZE/client, the mean of so many clients.

    >>> read_budget("20kB/client", clients=50)
    1000000
    """
    if isinstance(value, str) and value.strip().endswith(EACH):
        total = clients * read_size("budget", value.strip().removesuffix(EACH))
        return read_size(f"budget ({value} for {clients:,} clients)", total)
    return read_size("budget", value)


def short_size(count: int) -> str:
    """Bytes in the largest unit that needs no more than three decimals.

    >>> short_size(2_000_000), short_size(15_360), short_size(1_234_567)
    ('2 MB', '15.36 kB', '1,234.567 kB')
    """
    unit, name = max((size, name) for name, size in UNITS.items() if 1000 * count % size == 0 and count >= size)
    whole, part = divmod(1000 * count // unit, 1000)
    return f"{whole:,}" + f".{part:03d}".rstrip("0").rstrip(".") + f" {name}"


def _meant(found: re.Match[str] | None) -> str:
    """The size that other letters may mean, as the rest of a sentence."""
    letters = found and found[2].lower().replace("ib", "b")
    near = next((unit for unit in UNITS if letters and letters in (unit.lower(), unit[0].lower())), None)
    return f"; did you mean '{found[1]}{near}'?" if found and near else ""
