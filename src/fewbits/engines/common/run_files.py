"""The files of a run that other programs read: the codecs of its links, and its final weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fewbits.codecs import Lift
from fewbits.codecs.lifts.lift import AnySpec, entries
from fewbits.engines.common.run_lock import LOCK
from fewbits.errors import LocalError
from fewbits.factor.adapters import describe_adapters, read_description
from fewbits.factor.derived import duplicate
from fewbits.federated.server import Server
from fewbits.files import check_folder, write_atomically
from fewbits.json_text import json_text
from fewbits.learn.flat_model import FlatModel
from fewbits.links.identity import codec_hash

RUN_OF_COMMAND, COMPARISON = "config.json", "compare.json"
ON_FLOWER = "run"  # the file with the name that a run on Flower began with
COMMANDS = (RUN_OF_COMMAND, COMPARISON)  # what the command line leaves first
RUN = ("checkpoints", "states", "ledger.jsonl", "metrics.jsonl", "vectors.bin")
EARLY = (LOCK, "wire.json", "downlink")  # what a run that was stopped before its first log may have left
CALL = "a run without config.json, as fb.federate makes it; make the same call again"
KINDS = {  # by the first file that tells them
    COMPARISON: "a comparison of the command line",
    RUN_OF_COMMAND: "a run of the command line",
    ON_FLOWER: "a run of a server on Flower",
    "diagnose.json": "a diagnosis",
}
ADAPTERS = "adapters"  # of the metadata of MODEL
WIRE, MODEL, NODES = "wire.json", "model.safetensors", "nodes.safetensors"


def left_nothing(folder: Path) -> bool:
    """Whether a folder holds nothing of a run but its lock and parts of files, as after a stop before it began."""
    return all(child.name == LOCK or child.name.endswith(".part") for child in folder.iterdir())


def of_a_call(folder: Path) -> bool:
    """Whether the folder holds a run that a call from Python made, such as `fb.federate`."""
    logs = all((folder / name).is_file() for name in ("ledger.jsonl", "metrics.jsonl"))
    return logs and not any((folder / name).exists() for name in (*COMMANDS, ON_FLOWER))


def check_continues(folder: Path, first: tuple[str, ...] = RUN) -> None:
    """LocalError unless the folder is new, empty, or holds an earlier part of such a run as the caller makes.

    Args:
        folder: where the run will write.
        first: names of which a run of this kind leaves one or more, before anything else.
    """
    check_folder(folder)
    names = _left(folder)
    if names & {*COMMANDS, ON_FLOWER}:
        raise LocalError(f"{folder} holds {contents(folder)}; continue it there, or give another folder")
    if names and not names & set(first):
        raise LocalError(f"{folder} holds {contents(folder)}, and no such run; give another folder")


def check_one_run(folder: Path) -> None:
    """LocalError unless the folder is new, empty, or holds an earlier part of one run, as an engine plays it."""
    names = _left(folder)
    if names & {COMPARISON, ON_FLOWER} or (names and not names & {*RUN, RUN_OF_COMMAND}):
        raise LocalError(f"{folder} holds {contents(folder)}, and no such run; give another folder")


def check_on_flower(folder: Path) -> None:
    """LocalError unless the folder is new, empty, or holds an earlier part of a server's run on Flower."""
    names = _left(folder)
    if names and ON_FLOWER not in names:
        raise LocalError(f"{folder} holds {contents(folder)}, and no run on Flower; give another folder")


def contents(folder: Path) -> str:
    """What a folder that is not empty holds, in words that name a file of it."""
    names = _left(folder)
    found = next((name for name in KINDS if name in names), None)
    if found is not None:
        return f"{KINDS[found]} ({found})"
    of_runs = sorted(name for name in names if (folder / name / "metrics.jsonl").is_file())
    if of_runs:
        return f"a comparison by fb.compare ({of_runs[0]})"
    found = next((name for name in RUN if name in names), None)
    if found is not None:
        return f"a run of a call, such as fb.federate ({found})"
    return f"other files ({min(names, default='none')})"


def _left(folder: Path) -> set[str]:
    """Names in the folder, but for what a run leaves that was stopped before it began."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    names = {path.name for path in found if path.name != ON_FLOWER or path.is_file()}
    return {name for name in names if name not in EARLY and not name.endswith(".part")}


def write_links(server: Server, folder: Path) -> None:
    """Describe the codecs and tensors of both directions, for `fewbits inspect`."""
    links = [_link("uplink", "", server.exchange.up, server.exchange.sent)]
    links += [_link("downlink", *kind) for kind in server.broadcast.kinds]
    write_atomically(folder / WIRE, (json_text(links, indent=2) + "\n").encode())


def write_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state dict as safetensors, and what merging its adapters needs to know."""
    adapters = describe_adapters(model)
    write_tensors(model.state_dict(), path, {} if adapters is None else {ADAPTERS: json_text(adapters)})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors."""
    # Parameters are views of one buffer, which safetensors refuses.
    cloned = {name: x.detach().clone().contiguous() for name, x in tensors.items()}
    write_atomically(path, save(cloned, dict(metadata) or None))


def read_adapters(path: Path) -> dict[str, Any] | None:
    """What a file of weights says of its adapters; None: nothing.

    Raises:
        LocalError: it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(ADAPTERS)
        return None if text is None else read_description(text)
    except (SafetensorError, LocalError) as error:
        raise LocalError(f"{path}: {error}") from None


def write_nodes(model: nn.Module, models: Tensor, path: Path) -> None:
    """Write every node's model, (n, numel), with the names and shapes of `model`, as safetensors."""
    layout = [[name, list(x.shape)] for name, x in FlatModel(duplicate(model)).named().items()]
    write_atomically(path, save({"models": models.clone()}, {"layout": json_text(layout)}))


def _link(way: str, kind: str, codec: Lift, spec: AnySpec) -> dict[str, object]:
    tensors = [[name, list(leaf.shape), leaf.dtype] for name, leaf in entries(spec)]
    name = f"{codec_hash(codec, spec, kind):04X}"
    return {"link": way, "kind": kind, "codec": repr(codec), "hash": name, "tensors": tensors}
