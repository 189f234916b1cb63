"""Comparison: several methods and seeds on one task, as it stands in its folder's compare.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from fewbits.checks import check_number
from fewbits.cli.config import RunConfig, read_json
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.methods.catalogue import options

NAME = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """Every method with every seed; nothing else differs between the runs."""

    base: RunConfig  # its method, settings and seed are not used
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()  # option=value for all methods that have it, method.option=value for one
    target_accuracy: float | None = None  # report the bytes it takes to get there

    kind: ClassVar[type[RunConfig]] = RunConfig

    def __post_init__(self) -> None:
        for what, found in (("methods", self.methods), ("seeds", self.seeds)):
            if not found or len(set(found)) != len(found):
                got = ", ".join(map(str, found)) or "none"
                raise LocalError(f"compare: give one or more {what}, each once; got {got}")
        if self.target_accuracy is not None:
            check_number("target_accuracy", self.target_accuracy, "(0, 1]", hint=", such as 0.9 for 90%")
        self.runs()  # says what is wrong with a method or a setting

    def runs(self) -> dict[str, RunConfig]:
        """Each run's configuration by the name of its folder, seed by seed."""
        given = distribute(self.settings, self.methods, self.kind.options)
        found = {
            f"{method}-seed{seed}": replace(self.base, method=method, settings=given[method], seed=seed)
            for seed in self.seeds
            for method in self.methods
        }
        share = max(config.held_share for config in found.values())  # the same data for all of them
        return {name: replace(config, holdout=share) for name, config in found.items()}

    def write(self, folder: Path) -> None:
        """Note it in the folder."""
        note = vars(self) | {"base": self.base.asdict()}
        write_atomically(folder / NAME, (json.dumps(note, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The comparison in `folder`; LocalError when there is none or it cannot be read."""
        path = folder / NAME
        note = read_json(path)
        keys = {"base", "methods", "seeds", "settings", "target_accuracy"}
        if not isinstance(note, dict) or set(note) != keys:
            raise LocalError(f"{path}: expected an object with the keys {', '.join(sorted(keys))}")
        kinds = {"methods": str, "seeds": int, "settings": str}
        for name, kind in kinds.items():
            if not isinstance(note[name], list) or not all(type(x) is kind for x in note[name]):
                raise LocalError(f"{path}: {name} must be a list of {kind.__name__}; got {note[name]!r}")
        target = note["target_accuracy"]
        if target is not None and not isinstance(target, int | float):
            raise LocalError(f"{path}: target_accuracy must be a number or null; got {target!r}")
        lists = {name: tuple(note[name]) for name in kinds}
        return cls(cls.kind.parse(note["base"], f"{path}: base"), target_accuracy=target, **lists)


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """option=value texts as a dict.

    >>> pairs(["threshold=0.2", "down=dense"])
    {'threshold': '0.2', 'down': 'dense'}
    """
    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise LocalError(f"--set takes option=value, such as threshold=0.2; got {text!r}")
        found[name] = value
    return found


def distribute(
    settings: Sequence[str], methods: Sequence[str], options: Callable[[str], Mapping[str, Any]] = options
) -> dict[str, dict[str, str]]:
    """Each method's options; a text with the method's name before a dot wins over one without.

    >>> distribute(["fraction=0.1", "topk.fraction=0.2"], ["topk", "predict"])
    {'topk': {'fraction': '0.2'}, 'predict': {'fraction': '0.1'}}
    """
    found: dict[str, dict[str, str]] = {method: {} for method in methods}
    given = pairs(settings)
    for name in sorted(given, key=lambda name: "." in name):
        method, dot, option = name.rpartition(".")
        if dot and method not in methods:
            raise LocalError(f"--set {name}: {method!r} is not among the methods compared: {', '.join(methods)}")
        takers = [method] if dot else [m for m in methods if option in options(m)]
        if not takers:
            raise LocalError(f"--set {name}: none of {', '.join(methods)} has an option {option!r}")
        for taker in takers:
            found[taker][option] = given[name]
    return found
