"""Facts of a run as texts by name, and how those of several processes are shown where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

AS_GIVEN = " as given"  # ends the name of a text that is shown in the place of another, and not compared
NONE = "none"
PARTS = "; "  # between the parts of a text
SHOWN = 400  # characters of a text in a message


def shown(name: str, several: Sequence[Mapping[str, object]]) -> list[str]:
    """What each of several has under this name, short enough for a sentence about their difference.

    That is the text as a person gave it, where there is one and it differs, too. Of texts in parts, such as "a; b; c",
    it is the first parts that differ.

    >>> shown("model", [{"model": "w, [3]; b, [1]"}, {"model": "w, [3]; b, [2]"}])
    ['b, [1]', 'b, [2]']
    >>> shown("codec", [{"codec": "raw()", "codec as given": "dense"}, {"codec": "x", "codec as given": "topk"}])
    ['dense', 'topk']
    """
    texts = [str(facts.get(name, NONE)) for facts in several]
    given = [facts.get(name + AS_GIVEN) for facts in several]
    if all(isinstance(text, str) for text in given) and len(set(given)) == len(set(texts)):
        texts = list(map(str, given))
    return list(map(_short, _first_parts(texts)))


def _first_parts(texts: list[str]) -> list[str]:
    """The first parts that are not all equal; a text that ends before has none there."""
    if not all(PARTS in text for text in texts):
        return texts
    parts = zip_longest(*(text.split(PARTS) for text in texts), fillvalue="no more")
    return next((list(several) for several in parts if len(set(several)) > 1), texts)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
