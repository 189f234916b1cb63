"""A client's turn that fails: what the user's code raised as one sentence, said once for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_tb

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import FewbitsError, words

PACKAGE, TORCH = "fewbits", "torch"
LONGEST = 300  # characters of a library's sentence
NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")
ONE_ROW = "Expected more than 1 value per channel"  # torch's sentence about a batch of one row under BatchNorm
SUBJECT = re.compile(r"round \d+: (?:client|node) (\d+)")
LIKEWISE = re.compile(r"(.*?)(?:; likewise ([\d, ]+))?", re.DOTALL)
FEW = 5  # clients, all of one round, whose equal failures are the task's, even where there are more clients


def sentence(error: Exception) -> str:
    """What the user's model, loss or data raised: its kind, its first line, and the line of the user's code.

    An error of this package is raised again: an assertion that failed, or a FewbitsError, with nobody else's code in
    between.
    """
    if isinstance(error, FewbitsError | AssertionError) and not _is_foreign(error):
        raise error
    lines = words(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = _place(error)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{text} ({place}){way_out(text)}" if place else f"{text}{way_out(text)}"


def way_out(said: str) -> str:
    """What to do about a library's sentence; "" when that is not known.

    >>> way_out("Expected more than 1 value per channel when training")[:45]
    '; BatchNorm needs two rows or more in a batch'
    """
    if ONE_ROW not in said:
        return ""
    return (
        "; BatchNorm needs two rows or more in a batch: choose a batch_size that leaves no last batch of one row, or "
        "leave that row out of the data (drop_last of a DataLoader does so); GroupNorm and LayerNorm take one row"
    )


def _is_foreign(error: Exception) -> bool:
    """Whether code outside of this package took part."""
    return any(_package(frame.f_globals) != PACKAGE for frame, _ in walk_tb(error.__traceback__))


def _place(error: Exception) -> str:
    """The innermost line that is neither torch's nor ours, as "train.py, line 12"; "" when there is none."""
    frames = walk_tb(error.__traceback__)
    found = [(frame, line) for frame, line in frames if _package(frame.f_globals) not in (PACKAGE, TORCH)]
    return f"{Path(found[-1][0].f_code.co_filename).name}, line {found[-1][1]}" if found else ""


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


class Notes:
    """Sentences about faults that a run survived; those that differ in numbers only are said once for each client.

    Clients with the same fault in one round share a sentence.
    """

    def __init__(self, said: Iterable[str] = ()) -> None:
        """`said`: what `new` gave in the run's earlier part."""
        self._known: set[tuple[str, str]] = set()
        for text in said:
            first, others = LIKEWISE.fullmatch(text).groups()  # pyright: ignore[reportOptionalMemberAccess]
            self._known.add((_client_of(first), kind(first)))
            self._known.update((number, kind(first)) for number in (others or "").split(", "))

    def new(self, sentences: Iterable[str]) -> list[str]:
        """Those that were not said yet of their client."""
        found: dict[str, list[str]] = {}  # a sentence, and the other clients that it is said of, by kind
        for text in sentences:
            name, who = kind(text), _client_of(text)
            if (who, name) not in self._known:
                self._known.add((who, name))
                found.setdefault(name, [text]).append(who)
        return [text + (f"; likewise {', '.join(others)}" if others else "") for text, _, *others in found.values()]


def _client_of(text: str) -> str:
    """The client's number; "" in a sentence about the round."""
    found = SUBJECT.match(text)
    return found[1] if found else ""


def kind(text: str) -> str:
    """A sentence without its numbers."""
    return NUMBER.sub("#", text)


def data_fault(x: Tensor | None, rows: np.ndarray) -> str:
    """What of a client's inputs may be the reason for an update that is not finite; "": nothing.

    >>> data_fault(torch.tensor([[1.0], [torch.nan], [2.0]]), np.array([0, 1]))
    '; 1 of its 2 examples has inputs that are not finite'
    """
    if x is None:  # data in other forms
        return ""
    of_client = x[torch.from_numpy(np.asarray(rows, np.int64)).to(x.device)].flatten(1)
    bad = int((~torch.isfinite(of_client)).any(1).sum())
    return (
        f"; {bad} of its {len(rows)} examples {'has' if bad == 1 else 'have'} inputs that are not finite" if bad else ""
    )


def common_failure(raised: list[str], asked: int, everybody: int) -> str | None:
    """The first sentence, where every client of a round raised the same: then the task is at fault, not a client.

    Args:
        raised: the sentences of the round's clients whose model, loss or data raised.
        asked: clients of the round.
        everybody: clients of the run. Of a small sample, all may be bad by chance.
    """
    enough = asked >= min(FEW, everybody)
    return raised[0] if enough and len(raised) == asked and len(set(map(kind, raised))) == 1 else None
