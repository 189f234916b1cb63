"""Checkpoints: a safetensors file and, written after it, a JSON note with its digest; the last two are kept."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fewbits.errors import LocalError, WireError
from fewbits.learn.server import Server

KEEP = 2


@dataclass(frozen=True)
class Note:
    """What the JSON beside a checkpoint says."""

    round: int
    digest: str  # BLAKE2b of the safetensors file
    sizes: dict[str, int]  # bytes of each log that belong to the rounds so far
    seconds: float  # of training so far


def save(folder: Path, server: Server, sizes: dict[str, int], seconds: float) -> None:
    """Write the server's checkpoint atomically, then drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors(_tensors(server))
    stem = folder / f"round-{server.round:08d}"
    note = Note(server.round, hashlib.blake2b(data, digest_size=16).hexdigest(), sizes, seconds)
    write_atomically(stem.with_suffix(".safetensors"), data)
    write_atomically(stem.with_suffix(".json"), json.dumps(vars(note)).encode())
    for old in sorted(folder.glob("round-*.json"))[:-KEEP]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def rounds(folder: Path) -> list[int]:
    """Rounds with a checkpoint, ascending."""
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("round-*.json"))


def restore(folder: Path, server: Server) -> tuple[Note | None, list[str]]:
    """Load the newest checkpoint that is sound: (its note or None when there is none, complaints about the others).

    Raises LocalError when there are checkpoints and none of them is sound.
    """
    complaints: list[str] = []
    for path in sorted(folder.glob("round-*.json"), reverse=True):
        try:
            note = Note(**json.loads(path.read_text()))
            data = path.with_suffix(".safetensors").read_bytes()
            if hashlib.blake2b(data, digest_size=16).hexdigest() != note.digest:
                raise LocalError("its digest does not match")
            _load(server, note, load_tensors(data))
            return note, complaints
        except (OSError, ValueError, TypeError, KeyError, SafetensorError, WireError) as error:
            complaints.append(f"{path.with_suffix('.safetensors')} cannot be used: {error}")
    if complaints:
        raise LocalError("no checkpoint is sound. " + "; ".join(complaints))
    return None, []


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file, bring it to disk, rename it over `path`."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _tensors(server: Server) -> dict[str, Tensor]:
    dumped = server.dump()
    found = {"theta": dumped["theta"], "public": dumped["public"]}
    found |= {f"moment.{i}": m for i, m in enumerate(dumped["moments"])}
    found |= {f"broadcast.{i:04d}": torch.frombuffer(bytearray(b), dtype=torch.uint8) for i, b in enumerate(dumped["broadcast"])}
    found |= {"versions": _table(server.versions), "rejected": _table(server.rejected)}
    return found


def _load(server: Server, note: Note, found: dict[str, Tensor]) -> None:
    moments = [found[k] for k in sorted(k for k in found if k.startswith("moment."))]
    broadcast = [found[k].numpy().tobytes() for k in sorted(k for k in found if k.startswith("broadcast."))]
    server.load(note.round, found["theta"], found["public"], moments, broadcast)
    server.versions = _dict(found["versions"])
    server.rejected = _dict(found["rejected"])


def _table(counts: dict[int, int]) -> Tensor:
    return torch.tensor(sorted(counts.items()), dtype=torch.int64).reshape(-1, 2)


def _dict(table: Tensor) -> dict[int, int]:
    return {int(k): int(v) for k, v in table.tolist()}


