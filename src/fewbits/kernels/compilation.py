"""Numba's compilation: said once when it happens, and with a cache where none of Numba's places can be written."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from typing import Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache

SENTENCE = "fewbits: compiling kernels once, up to 15 s; later runs load them from a cache"
NO_CACHE = (
    "fewbits: compiled kernels cannot be stored, so each start compiles them again; set NUMBA_CACHE_DIR to a folder "
    "that can be written"
)


class _Announcer(event.Listener):
    """Says the sentence when the first kernel of fewbits is compiled; kernels from the cache are no event."""

    def __init__(self) -> None:
        self.silent = False

    def on_start(self, event: Any) -> None:
        module = str(getattr((event.data or {}).get("dispatcher"), "__module__", ""))
        if not self.silent and module.startswith("fewbits."):
            self.silent = True
            _say(SENTENCE)

    def on_end(self, event: Any) -> None:
        return


def prepare() -> None:
    """Call once, before the first kernel is declared."""
    event.register("numba:compile", _Announcer())
    try:
        FunctionCache(prepare)  # looks for a place as it does for every kernel: beside it, or the user's cache
    except RuntimeError:
        numba.config.CACHE_DIR = folder = tempfile.mkdtemp(prefix="fewbits-kernels-")  # pyright: ignore
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _say(NO_CACHE)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
