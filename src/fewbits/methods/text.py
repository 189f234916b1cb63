"""A method as text: NAME, or NAME@OPTION=VALUE,OPTION=VALUE; several of them, each with a label if need be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from fewbits.errors import LocalError

Options = Callable[[str], Mapping[str, object]]  # a method's options with their defaults, by its name
SAFE = "+@=,:*"  # characters of a label that stay as they are in the name of a folder
NAME = re.compile(r"\s*[A-Za-z][\w+]*\s*(?:@|$)")  # of a method; its options may follow
LAYER = re.compile(r"\s*([A-Za-z]\w*)\s*(?:[@,](.*))?$", re.DOTALL)  # a name, and its options if it has any
FIRST = re.compile(r"\s*([^@=]+=[^@=]+(?:,[^@=]+=[^@=]+)*)@\s*([A-Za-z]\w*)\s*(?:\+|$)")  # options, then a layer
FORM = "NAME or NAME@option=value,option=value, such as topk@fraction=0.01,bits=8"


@dataclass(frozen=True)
class MethodText:
    """One method that was read from text."""

    name: str  # as `fewbits methods` lists it, layers joined by a plus: "lbgm+topk"
    settings: Mapping[str, str] = field(default_factory=dict)  # its options, as text
    given: str = ""  # a label; "" when the text has none

    def __str__(self) -> str:
        options = ",".join(f"{option}={value}" for option, value in self.settings.items())
        return f"{self.name}@{options}" if options else self.name

    @property
    def full(self) -> str:
        """The text that `read_labelled` reads back as this value."""
        return f"{self.given}={self}" if self.given else str(self)

    @property
    def label(self) -> str:
        """What tables call the method: its label, or else its text."""
        return self.given or str(self)


def read(text: str) -> MethodText:
    """The method in a text. A part after a comma that has no `=` belongs to the value before it.

    >>> read("lbgm+topk@threshold=0.2,fraction=0.01")
    MethodText(name='lbgm+topk', settings={'threshold': '0.2', 'fraction': '0.01'}, given='')
    >>> read("fedper@private=fc*,out*").settings
    {'private': 'fc*,out*'}

    Raises:
        LocalError: the text names no method, or an option has no value, or stands before a layer.
    """
    _check_order(text)
    name, at, rest = text.strip().partition("@")
    if not name or (at and "=" not in rest.partition(",")[0]):
        raise LocalError(f"a method is {FORM}; got {text!r}")
    parts: list[str] = []
    for part in map(str.strip, rest.split(",") if at else []):
        if not part:
            raise LocalError(f"an entry is empty in {text!r}; put one comma between two options, and none at the end")
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    return MethodText(name, pairs(parts))


def _check_order(text: str) -> None:
    """LocalError when options stand before the last layer of a method; it says the text with all options last."""
    names: list[str] = []
    options: list[str] = []  # of each layer; "": none
    for part in text.split("+"):
        if first := FIRST.match(part):
            part = f"{first[2]}@{first[1]}"
        if found := LAYER.match(part):
            names.append(found[1])
            options.append((found[2] or "").strip().replace("@", ","))
        elif not options or not options[-1]:
            return  # another mistake
        else:
            options[-1] += f"+{part}"  # of a value, such as 1e+5
    if any(options[:-1]) or FIRST.match(text) or text.count("@") > 1:
        meant = f"{'+'.join(names)}@{','.join(filter(None, options))}"
        raise LocalError(f"a method's options go last, after all its layers: write {meant!r}; got {text!r}")


def read_all(text: str, options: Options) -> list[MethodText]:
    """Several methods, separated by commas; each may have a label, as in `LABEL=NAME@option=value`.

    A part `x=y` is an option of the method before it when that one has an option x, or when y is no method. A part
    that is no name, such as `out*`, belongs to the value before it.

    Args:
        text: such as "dense,topk@fraction=0.01,bits=8" or "a=topk@fraction=0.01,b=topk@fraction=0.05".
        options: gives the options of a method by its name; raises LocalError when there is no such method.

    Raises:
        LocalError: a part is neither a method nor an option of the one before it.

    >>> from fewbits.methods.catalogue import options
    >>> [str(found) for found in read_all("dense,topk@fraction=0.01,bits=8,dp@share=local", options)]
    ['dense', 'topk@fraction=0.01,bits=8', 'dp@share=local']
    >>> [found.label for found in read_all("a=topk@fraction=0.01,b=topk", options)]
    ['a', 'b']
    """
    found: list[MethodText] = []
    for part in map(str.strip, text.split(",") if text.strip() else ()):
        if not part:
            raise LocalError(f"an entry is empty in {text!r}; put one comma between two methods, and none at the end")
        if found and _continues(part, found[-1], options):
            found[-1] = _extended(found[-1], part)
        else:
            found.append(read_labelled(part, options))
    return found


def _continues(part: str, before: MethodText, options: Options) -> bool:
    """Whether the part is an option of the method before it."""
    option, equals, value = part.partition("=")
    if not equals:
        return bool(before.settings) and not NAME.match(part)
    if "@" in option:
        return False
    if not _is_method(value, options):
        _check_order(part)
    return option.strip() in options(before.name) or not ("@" in value or _is_method(value, options))


def _extended(before: MethodText, part: str) -> MethodText:
    joint = "," if before.settings else "@"
    return replace(read(f"{before}{joint}{part}"), given=before.given)


def read_labelled(part: str, options: Options) -> MethodText:
    """One method, with a label or without; `options` as for `read_all`."""
    label, equals, rest = part.partition("=")
    if not equals or "@" in label:
        return read(part)
    _check_order(part)
    if not label.strip():
        raise LocalError(f"the label before = is empty in {part!r}; write LABEL={FORM}")
    if not NAME.match(rest):
        raise LocalError(f"{part!r} is an option without its method; a method is {FORM}")
    options(rest.partition("@")[0].strip())  # says what is wrong with a name
    return replace(read(rest), given=label.strip())


def _is_method(text: str, options: Options) -> bool:
    try:
        options(text.partition("@")[0].strip())
    except LocalError:
        return False
    return True


def folder_name(label: str, seed: int) -> str:
    """The name of the folder of one run in a comparison.

    >>> folder_name("topk@fraction=0.1", 2)
    'topk@fraction=0.1-seed2'
    """
    return f"{quote(label, safe=SAFE)}-seed{seed}"


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """Texts option=value as a dict; LocalError when one is not of that form.

    >>> pairs(["threshold=0.2", "down=dense"])
    {'threshold': '0.2', 'down': 'dense'}
    """
    found: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise LocalError(f"an option is option=value, such as threshold=0.2; got {text!r}")
        if name.strip() in found:
            raise LocalError(f"write options as option=value, each once; got {', '.join(settings)}")
        found[name.strip()] = value.strip()
    return found
