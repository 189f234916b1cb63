"""Which versions of Flower the engine `flower` runs on. It asks what is installed and imports nothing."""

from __future__ import annotations

import logging
import re
from importlib.metadata import PackageNotFoundError, version

from fewbits.errors import LocalError

OLDEST, NEWEST = (1, 21), (1, 42)  # the hosted tests run both, and some between; pyproject.toml has the same bounds
APP_NAMES_FEDERATIONS = (1, 26)  # older ones read federations from an app's pyproject.toml, newer ones from FLWR_HOME
log = logging.getLogger("flwr")


def installed() -> str | None:
    """Flower's version, or None without Flower."""
    for name in ("flwr", "flwr-nightly"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def release(text: str) -> tuple[int, int]:
    """The first two numbers of a version.

    >>> release("1.41.0"), release("1.43.0.dev20261101"), release("2")
    ((1, 41), (1, 43), (2, 0))
    """
    found = [int(n) for n in re.findall(r"\d+", text)[:2]]
    return (*found, 0, 0)[0], (*found, 0, 0)[1]


def check(text: str | None) -> None:
    """Refuse a version that is too old, and say when one is newer than what was tested.

    Raises:
        LocalError: the version has no strategies that take messages, or there is none.
    """
    if text is None:
        raise LocalError("fewbits.flower needs Flower: pip install 'fewbits[flower]'")
    oldest, newest = (".".join(map(str, pair)) for pair in (OLDEST, NEWEST))
    if release(text) < OLDEST:
        raise LocalError(
            f"fewbits.flower runs on Flower {oldest} to {newest}; version {text} is installed, which has no strategies "
            "for messages: pip install 'fewbits[flower]'"
        )
    if release(text) > NEWEST:
        log.warning("fewbits: tested on Flower %s to %s; version %s is installed and newer", oldest, newest, text)
