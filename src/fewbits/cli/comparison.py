"""Comparison: several methods and seeds on one task, as its folder's compare.json holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from fewbits.checks import check_number
from fewbits.cli.config import RunConfig, read_json
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.methods.catalogue import options
from fewbits.methods.text import MethodText, Options, folder_name, pairs, read_labelled

NAME = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """Every method with every seed; nothing else differs between the runs."""

    base: RunConfig  # its method, settings and seed are not used
    methods: tuple[str, ...]  # NAME@option=value,..., each with a label or without
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()  # option=value for all methods that have it, method.option=value for one
    target_accuracy: float | None = None  # report the bytes to this accuracy
    at: tuple[int, ...] = ()  # report the accuracy at these bytes, ascending

    kind: ClassVar[type[RunConfig]] = RunConfig
    command: ClassVar[str] = "compare"  # the command that plays it

    def __post_init__(self) -> None:
        for what, found in (("methods", self.labels), ("seeds", self.seeds)):
            check_each_once("compare", what, found)
        if self.target_accuracy is not None:
            check_number("target_accuracy", self.target_accuracy, "(0, 1]", hint=", such as 0.9 for 90%")
        self.configs  # noqa: B018 - says what is wrong with a method's name or a setting

    @cached_property
    def texts(self) -> tuple[MethodText, ...]:
        """The methods, read."""
        return tuple(read_labelled(text, self.kind.options) for text in self.methods)

    @property
    def labels(self) -> tuple[str, ...]:
        """What tables call the methods."""
        return tuple(method.label for method in self.texts)

    @cached_property
    def configs(self) -> Mapping[str, RunConfig]:
        """Each method's configuration by its label; the seed is the base's."""
        given = distribute(self.settings, self.texts, self.kind.options)
        return {text.label: self._config(text, given[text.label]) for text in self.texts}

    def _config(self, text: MethodText, settings: Mapping[str, str]) -> RunConfig:
        config = replace(self.base, method=text.name, settings=settings, label="")
        return config if config.name == text.label else replace(config, label=text.label)

    @cached_property
    def built(self) -> Mapping[str, Any]:
        """Each method by its label, built once for all seeds."""
        return {label: config.build_method() for label, config in self.configs.items()}

    def runs(self) -> dict[str, RunConfig]:
        """Each run's configuration by the name of its folder, seed by seed; all test on the same held-out examples."""
        share = max(config.share_held_out(self.built[label]) for label, config in self.configs.items())
        return {
            folder_name(label, seed): replace(config, seed=seed, holdout=share)
            for seed in self.seeds
            for label, config in self.configs.items()
        }

    def asdict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"base": self.base.asdict()}

    def write(self, folder: Path) -> None:
        """Write it into the folder."""
        write_atomically(folder / NAME, (json_text(self.asdict(), indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The comparison in `folder`; LocalError when there is none, or it cannot be read."""
        path = folder / NAME
        note = read_json(path)
        keys = {"base", "methods", "seeds", "settings", "target_accuracy", "at"}
        if not isinstance(note, dict) or set(note) != keys:
            raise LocalError(f"{path}: expected an object with the keys {', '.join(sorted(keys))}")
        kinds = {"methods": str, "seeds": int, "settings": str, "at": int}
        for name, kind in kinds.items():
            if not isinstance(note[name], list) or not all(type(x) is kind for x in note[name]):
                raise LocalError(f"{path}: {name} must be a list of {kind.__name__}; got {note[name]!r}")
        target = note["target_accuracy"]
        if target is not None and not isinstance(target, int | float):
            raise LocalError(f"{path}: target_accuracy must be a number or null; got {target!r}")
        lists = {name: tuple(note[name]) for name in kinds}
        return cls(cls.kind.parse(note["base"], f"{path}: base"), target_accuracy=target, **lists)


def check_each_once(command: str, what: str, found: Sequence[object]) -> None:
    """LocalError unless there is one or more, and none twice.

    >>> check_each_once("compare", "methods", ["dense", "topk", "dense"])
    Traceback (most recent call last):
    fewbits.errors.LocalError: compare: give one or more methods, each once; got dense, topk, dense
    """
    if not found or len(set(found)) != len(found):
        got = ", ".join(map(str, found)) or "none"
        raise LocalError(f"{command}: give one or more {what}, each once; got {got}")


def distribute(
    settings: Sequence[str], methods: Sequence[MethodText], options: Options = options
) -> dict[str, dict[str, str]]:
    """Each method's options by its label.

    `METHOD.option` (a label or a name) wins over the options in the method's text, and these win over a plain `option`.

    >>> distribute(["fraction=0.1", "topk.fraction=0.2"], [MethodText("topk"), MethodText("predict")])
    {'topk': {'fraction': '0.2'}, 'predict': {'fraction': '0.1'}}
    """
    found: dict[str, dict[str, str]] = {method.label: {} for method in methods}
    given = pairs(settings)
    for option in (name for name in given if "." not in name):
        takers = [method for method in methods if option in options(method.name)]
        if not takers:
            raise LocalError(f"--set {option}: none of {_listed(methods)} has an option {option!r}")
        for method in takers:
            found[method.label][option] = given[option]
    for method in methods:
        found[method.label] |= method.settings
    for name in (name for name in given if "." in name):
        to, _, option = name.rpartition(".")
        takers = [method for method in methods if to in (method.label, method.name)]
        if not takers:
            raise LocalError(f"--set {name}: {to!r} is not among the methods compared: {_listed(methods)}")
        for method in takers:
            found[method.label][option] = given[name]
    return found


def _listed(methods: Sequence[MethodText]) -> str:
    return ", ".join(method.label for method in methods)
