"""Ctrl-C in a command: one line that says what was kept, and exit code 130, from the first import to the last file.

KeyboardInterrupt cannot do this: in an import, a library's callback or a finalizer it becomes a traceback, or is lost.
A program that imports fewbits keeps its own way; only `fewbits` and `python -m fewbits` listen. This module imports
little, because a command cannot listen before. For the same reason, it is the place that keeps Python's collector of
cycles off a command's imports.
"""

import gc
import os
import signal
import sys

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it


class Stop:
    """The handler of SIGINT: it says `sentence` and ends this process at once.

    Everything on disk bears this, as it bears a kill.
    """

    def __init__(self) -> None:
        self.sentence = "stopped before anything was written"
        self._busy, self._asked = False, False

    def __call__(self, *_: object) -> None:
        self._asked = True
        if not self._busy:
            self.now()

    def now(self) -> None:
        """End here."""
        line = (f"{SHOW_CURSOR}\n" if os.isatty(1) else "") + self.sentence + "\n"
        try:
            try:
                sys.stdout.flush()
            finally:  # the main thread may be printing
                os.write(1, os.fsencode(line))
        finally:  # nobody may be reading
            os._exit(EXIT_CODE)

    def __enter__(self) -> None:
        """Around short work that must not end in the middle."""
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        if self._asked:
            self.now()


STOP = Stop()


def is_command(argv: list[str], original: list[str]) -> bool:
    """Whether a process is a command, by its sys.argv and sys.orig_argv while this package is imported.

    >>> is_command(["/usr/bin/fewbits", "train"], ["python", "/usr/bin/fewbits", "train"])
    True
    >>> is_command(["-m", "train"], ["python", "-u", "-m", "fewbits", "train"])
    True
    >>> is_command(["-m"], ["python", "-m", "mine", "fewbits"])
    False
    """
    if argv[:1] != ["-m"]:
        return "".join(argv[:1]).rpartition("/")[2] == "fewbits"
    return "-m" in original and original[original.index("-m") + 1 :][:1] == ["fewbits"]


def listen() -> None:
    """Let Ctrl-C end this process by `STOP`."""
    signal.signal(signal.SIGINT, STOP)


if is_command(sys.argv, sys.orig_argv):
    listen()
    gc.disable()  # it would go over all that torch makes, again and again: 0.4 s of 3 s; cli.app starts it
