"""The model that a call such as fb.federate left, without its LoRA adapters: from the file of its weights alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load
from torch import Tensor

from fewbits.engines.common.run_files import MODEL, read_adapters
from fewbits.errors import LocalError
from fewbits.factor.adapters import without_adapters

NAME = r"[A-Za-z_][\w.]*"


class Merged(NamedTuple):
    """A plain model as a file can hold it."""

    tensors: Mapping[str, Tensor]
    lines: str  # of Python, that load the file
    configuration: str | None = None  # JSON of a model of transformers, which belongs beside the file


def merged_call(run: Path, client: int | None, file: Path) -> Merged:
    """The model of the run in this folder.

    Raises:
        LocalError: it has no adapters, or such as plain weights cannot be made of.
    """
    if not (run / MODEL).is_file():
        raise LocalError(f"{run} holds no finished run: there is no {MODEL}")
    described = read_adapters(run / MODEL)
    if described is None:
        raise LocalError(
            f"{run} holds a run of a call, such as fb.federate, and no LoRA adapter; in Python save "
            "fb.merge(result.model).state_dict(), if the model has factors"
        )
    if client is not None:
        raise LocalError(f"{run} has one model for all clients; leave out --client {client}")
    try:
        tensors = without_adapters(load((run / MODEL).read_bytes()), described)
    except LocalError as error:
        raise LocalError(f"{run / MODEL}: {error}") from None
    lines, ours = adapted_lines(described, file)
    return Merged(tensors, lines, described["config"] if ours else None)


def configuration(file: Path) -> Path:
    """Where the configuration of a model of transformers is, beside its weights.

    >>> configuration(Path("net.safetensors")).name
    'net.config.json'
    """
    return file.with_suffix(".config.json")


def adapted_lines(described: Mapping[str, Any], file: Path) -> tuple[str, bool]:
    """Lines that load the file into a module of the class that was adapted; and whether a configuration makes it.

    >>> print(adapted_lines({"base": "task:Net"}, Path("net.safetensors"))[0])
    from safetensors.torch import load_file
    from task import Net
    <BLANKLINE>
    model = Net(...)  # as it was made, before the adapter
    model.load_state_dict(load_file("net.safetensors"))
    """
    module, _, name = described["base"].partition(":")
    kind = str(described.get("config class"))
    if not all(re.fullmatch(NAME, word) for word in (module, name, kind)):
        module, name, kind = "...", "Model", "Config"
    make, known = f"{name}(...)  # as it was made, before the adapter", name.partition(".")[0]
    ours = module.startswith("transformers.") and isinstance(described.get("config"), str)
    if ours:
        module, known = "transformers", ", ".join(sorted([name, kind]))
        make = f'{name}({kind}.from_json_file("{configuration(file).as_posix()}"))'
    lines = sorted(["from safetensors.torch import load_file", f"from {module} import {known}"])
    loads = f'model.load_state_dict(load_file("{file.as_posix()}"))'
    return "\n".join([*lines, "", f"model = {make}", loads]), ours
