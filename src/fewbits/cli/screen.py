"""The commands' output: how wide it is, and letters that its encoding lacks."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from io import TextIOWrapper

from rich.console import Console

LEAST = 80  # columns: tables are fitted to them, and a narrower terminal wraps their lines
NARROW = 40  # COLUMNS below this are no terminal's
UNCUT = 10_000  # columns of a file or a pipe, where no line is too long
STDOUT = "stdout"  # its name in messages
ERRORS = "fewbits.plain"  # the name of `plain` among the handlers of encoding errors
PLAIN = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "±": "+-",
    "…": "...",
    "·": "-",
    "•": "*",
    "∞": "inf",
    "≥": ">=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\N{NO-BREAK SPACE}": " ",
    "\N{HYPHEN}": "-",
    "≤": "<=",
    "→": "->",
}


def screen(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console for one command; in a file or a pipe no text is cut or wrapped.

    COLUMNS, where it is set to less than 80, counts as 80: narrower tables could not be read.
    """
    console = Console(stderr=stderr, quiet=quiet)
    columns = os.environ.get("COLUMNS", "")
    uncut = not is_watched(console) and not columns.isdecimal()
    console.width = UNCUT if uncut else max(LEAST, console.width)
    return console


def print_notes(notes: Iterable[str], console: Console) -> None:
    """One line for each sentence."""
    for note in notes:
        console.print(f"note: {note}", markup=False, style="yellow")


def believe_columns() -> None:
    """Forget COLUMNS where it is absurd, such as 0; the terminal's width counts then, or else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < NARROW:
        del os.environ["COLUMNS"]


def is_watched(console: Console) -> bool:
    """Whether the console is a terminal on which lines can be drawn anew."""
    return console.is_terminal and not console.is_dumb_terminal


def write_anything(streams: Iterable[object] = ()) -> None:
    """Let the streams, by default stdout and stderr, write every letter: one that is missing becomes a plain one."""
    codecs.register_error(ERRORS, plain)
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def name_stdout() -> None:
    """Let errors of writing to stdout name it, as those of a file do: a full disk may be the one behind `> file`."""
    stream = sys.stdout
    if not isinstance(stream, TextIOWrapper) or "write" in vars(stream):
        return
    for name in ("write", "flush"):
        setattr(stream, name, _named(getattr(stream, name)))


def _named(call: Callable[..., object]) -> Callable[..., object]:
    @wraps(call)
    def checked(*args: object) -> object:
        try:
            return call(*args)
        except BrokenPipeError:
            raise  # the reader of a pipe has seen enough
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from error

    return checked


def drop_stdout() -> None:
    """Send what stdout still holds, and all that follows, nowhere: it cannot be written."""
    with suppress(OSError, ValueError):
        nowhere, place = os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        os.dup2(nowhere, place)
        os.close(nowhere)


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for letters that cannot be encoded.

    >>> codecs.register_error(ERRORS, plain)
    >>> "5× ± 1 – ü 数".encode("ascii", ERRORS)
    b'5x +- 1 - u ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    if all("\udc80" <= letter <= "\udcff" for letter in letters):  # bytes of a file's name that are no text
        return bytes(ord(letter) - 0xDC00 for letter in letters), error.end
    return "".join(PLAIN.get(letter) or _bare(letter) for letter in letters), error.end


def _bare(letter: str) -> str:
    """The letter without its accents, if that leaves a plain one."""
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
