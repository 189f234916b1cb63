"""A run file: the options of `train` or `compare` as TOML, and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote

from fewbits.choices import unknown
from fewbits.cli import options as o
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import RunConfig, typed
from fewbits.errors import LocalError
from fewbits.files import write_atomically
from fewbits.methods.text import SAFE, MethodText

NAME = "run.toml"
LISTS = {
    "methods": str,
    "seeds": int,
    "at": int | str,
    "settings": str,
    "log": str,
}  # options that are lists by themselves
KINDS: Mapping[str, Any] = {
    "method": str,
    "rehearsal": int,
    "target_accuracy": float,
    "budget": str | int,
    "out": str,
    "live": bool,
}
NOT_IN_A_FILE = ("resume", "force")
VARIED = ("method", "settings", "seed", "label", "chosen", "instead")  # what the runs of a comparison do not share


@dataclass(frozen=True)
class RunFile:
    """What a run file asks for: one command's options, and the values of those that vary."""

    path: Path
    given: Mapping[str, Any]  # options by name, as a command gets them; without those that vary
    varied: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # an option's values, as a command gets them

    @property
    def is_comparison(self) -> bool:
        """Whether the command is `compare`."""
        return "methods" in self.given or "methods" in self.varied

    def runs(self) -> dict[str, dict[str, Any]]:
        """The options of each command by the name of its folder; one without a name where nothing varies."""
        found = {}
        for values in product(*self.varied.values()):
            chosen = dict(zip(self.varied, values, strict=True))
            name = ",".join(f"{_key(option)}={value}" for option, value in chosen.items())
            found[quote(name, safe=SAFE)] = {**self.given, **chosen}
        return found


def read_run_file(path: Path, train: Sequence[str], compare: Sequence[str]) -> RunFile:
    """The run file at `path`.

    Args:
        path: of the TOML file.
        train: names of the options of one run.
        compare: names of the options of a comparison.

    Raises:
        LocalError: it cannot be read, is no TOML, or has an unknown key or a value of another type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"{path} is not TOML: {error}") from None
    names = compare if "methods" in found else (*train, "label")
    known = {_key(name): name for name in names if name not in NOT_IN_A_FILE}
    given: dict[str, Any] = {}
    varied: dict[str, list[Any]] = {}
    for key, value in found.items():
        name = known.get(key.replace("_", "-"))
        if name is None:
            raise LocalError(f"{path}: {unknown('key', key, known)}")
        if name in LISTS:
            given[name] = _list(name, value, f"{path}: {key}")
        elif isinstance(value, list):
            if not value:
                raise LocalError(f"{path}: {key} is an empty list; give one value or more")
            varied[name] = [_value(name, each, f"{path}: {key}") for each in value]
        else:
            given[name] = _value(name, value, f"{path}: {key}")
    for name in ("out", "label"):
        if name in varied:
            raise LocalError(f"{path}: {name} must be one text, not a list")
    return RunFile(path, given, varied)


def write_settings(run: RunConfig | Comparison, folder: Path) -> None:
    """Leave the settings of a run or a comparison; with a server also as the file that makes it again."""
    run.write(folder)
    if run.command != "gossip":
        _write_run_file(run, folder)


def _write_run_file(run: RunConfig | Comparison, folder: Path) -> None:
    config = run if isinstance(run, RunConfig) else run.base
    left_out = (*VARIED, *config.replaced)
    found = {_key(name): value for name, value in config.meant().items() if value is not None and name not in left_out}
    if config.steps is not None:
        del found["epochs"]
    if isinstance(run, RunConfig):
        found = {"method": str(MethodText(config.method, config.settings)), **found, "seed": config.seed}
        found |= {"label": config.label} if config.label else {}
    else:
        found = {"methods": list(run.methods), "seeds": list(run.seeds), **found}
        for name in ("settings", "at"):
            if getattr(run, name):
                found[_key(name)] = list(getattr(run, name))
        if run.target_accuracy is not None:
            found["target-accuracy"] = run.target_accuracy
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    write_atomically(folder / NAME, "\n".join([f"# fewbits run {NAME} --out FOLDER", *lines, ""]).encode())


def _key(name: str) -> str:
    """What a file calls an option: its long form on the command line."""
    return "set" if name == "settings" else name.replace("_", "-")


def _list(name: str, value: Any, where: str) -> Any:
    """A list as the command gets it: texts for `settings` and `log`, else one text with commas."""
    if name == "settings" and isinstance(value, dict):
        value = [f"{option}={each}" for option, each in value.items()]
    listed = value if isinstance(value, list) else [value]
    for each in listed:
        typed(each, LISTS[name], where)
    if name in ("settings", "log"):
        return listed
    return ",".join(f"{each}B" if name == "at" and isinstance(each, int) else str(each) for each in listed)


def _value(name: str, value: Any, where: str) -> Any:
    """One value as the command gets it."""
    hint = KINDS.get(name) or get_type_hints(RunConfig)[name]
    found = typed(value, hint, where)
    if name in ("out", "data_dir"):
        return Path(found)
    return str(found) if name == "budget" else found


def all_options(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command by name, as it gets them: None for those that are not given."""
    defaults = {name: o.OPTIONS[name].default if name in o.OPTIONS else None for name in names}
    return defaults | dict(given)
