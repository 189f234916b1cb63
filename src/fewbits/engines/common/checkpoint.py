"""Checkpoints: a safetensors file and, written after it, a JSON note with its digest. The last two stay."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fewbits.errors import LocalError
from fewbits.federated.server import Server
from fewbits.files import write_atomically
from fewbits.json_text import json_text

KEEP = 2
SHOWN = 120  # characters of a setting in a message
NAME = re.compile(r'(?<=[(,]name=")[^"]*')  # a method's, in its description
UNSOUND = (OSError, ValueError, TypeError, KeyError, SafetensorError)  # raised by reading or using a damaged one


@dataclass(frozen=True)
class Note:
    """The JSON beside a checkpoint."""

    round: int
    sizes: dict[str, int]  # bytes of each log that belong to the rounds so far
    seconds: float  # of training so far
    settings: dict[str, str]  # what makes the run this run, by name

    def digest(self, data: bytes) -> str:
        """BLAKE2b of this note and of the safetensors file."""
        text = json_text(vars(self), sort_keys=True).encode()
        return hashlib.blake2b(data, digest_size=16, key=hashlib.blake2b(text).digest()).hexdigest()

    def check_settings(self, folder: Path, settings: Mapping[str, str]) -> None:
        """LocalError when the run in `folder` began with other settings; `settings` may leave some of them out."""
        for name, value in settings.items():
            earlier = self.settings.get(name)
            if earlier is not None and earlier != value:
                was, now = _where_they_differ(earlier, value)
                raise LocalError(f"{folder} holds another run; its {name}: {was}; got {now}. Use a new folder")


def _where_they_differ(earlier: str, value: str) -> tuple[str, str]:
    """Two long texts: the names of two methods, or else cut down to the place where they begin to differ."""
    names = [found[0] for found in map(NAME.search, (earlier, value)) if found is not None]
    if len(names) == len(set(names)) == 2:
        return names[0], names[1]
    if max(len(earlier), len(value)) <= SHOWN:
        return earlier, value
    first = next((i for i, (a, b) in enumerate(zip(earlier, value, strict=False)) if a != b), 0)
    start = max(0, first - SHOWN // 2)

    def cut(text: str) -> str:
        end = start + SHOWN
        return f"{'...' * (start > 0)}{text[start:end]}{'...' * (len(text) > end)}"

    return cut(earlier), cut(value)


def save(folder: Path, server: Server, note: Note) -> None:
    """Write the server's checkpoint."""
    write(folder, _tensors(server), note)


def write(folder: Path, tensors: Mapping[str, Tensor], note: Note) -> None:
    """Write a checkpoint atomically, then drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors(dict(tensors))
    stem = folder / f"round-{note.round:08d}"
    write_atomically(stem.with_suffix(".safetensors"), data)
    write_atomically(stem.with_suffix(".json"), json_text({"note": vars(note), "digest": note.digest(data)}).encode())
    for old in sorted(folder.glob("round-*.json"))[:-KEEP]:
        old.unlink()
    for left in folder.glob("round-*.safetensors"):
        if not left.with_suffix(".json").exists():
            left.unlink()


def rounds(folder: Path) -> list[int]:
    """Rounds with a checkpoint, ascending."""
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("round-*.json"))


def notes(folder: Path) -> Iterator[Note]:
    """The notes of the sound checkpoints, newest first."""
    for path in sorted(folder.glob("round-*.json"), reverse=True):
        with suppress(*UNSOUND):
            yield _read(path)[0]


def newest_settings(folder: Path) -> dict[str, str]:
    """What the newest note says that the run is, by name; {} where none can be read. Its tensors are not looked at."""
    for path in sorted(folder.glob("round-*.json"), reverse=True):
        with suppress(*UNSOUND):
            found = Note(**json.loads(path.read_text())["note"]).settings
            return {str(name): str(found[name]) for name in dict(found)}
    return {}


def restore(folder: Path, server: Server) -> tuple[Note | None, list[str]]:
    """Load the newest sound checkpoint into the server; see `newest`."""
    return newest(folder, lambda note, found: _load(server, note, found))


def newest(folder: Path, take: Callable[[Note, dict[str, Tensor]], None]) -> tuple[Note | None, list[str]]:
    """Give the newest sound checkpoint to `take`: (its note or None when there is none, complaints about the others).

    A checkpoint is unsound when its bytes are damaged or `take` raises. Unsound ones are renamed, because the run will
    write those rounds again. LocalError when there are checkpoints and none is sound; then all stay where they are.
    """
    complaints: list[str] = []
    unsound: list[Path] = []
    for path in sorted(folder.glob("round-*.json"), reverse=True):
        try:
            note, data = _read(path)
            take(note, load_tensors(data))
        except UNSOUND as error:
            complaints.append(f"{path.with_suffix('.safetensors')} (with its .json) cannot be used: {error}")
            unsound.append(path)
        else:
            for bad in unsound:
                _set_aside(bad)
            return note, complaints
    if complaints:
        raise LocalError("no checkpoint is sound. " + "; ".join(complaints))
    return None, []


def _read(path: Path) -> tuple[Note, bytes]:
    """The note and the tensors' bytes, checked against their digest."""
    content = json.loads(path.read_text())
    note = Note(**content["note"])
    data = path.with_suffix(".safetensors").read_bytes()
    if note.digest(data) != content["digest"]:
        raise LocalError("its digest does not match")
    return note, data


def _set_aside(path: Path) -> None:
    for file in (path, path.with_suffix(".safetensors")):
        if file.exists():
            file.replace(file.with_name(file.name + ".unsound"))


def _tensors(server: Server) -> dict[str, Tensor]:
    dumped = server.dump()
    found = {name: dumped[name][0] for name in ("theta", "norms") if dumped[name]}
    found |= {f"moment.{i}": m for i, m in enumerate(dumped["moments"])}
    found |= {f"extra.{i}": x for i, x in enumerate(dumped["server_vectors"])}
    found |= {
        f"broadcast.{i:04d}": torch.frombuffer(bytearray(b), dtype=torch.uint8)
        for i, b in enumerate(dumped["broadcast"])
    }
    found |= {"versions": _table(server.versions), "rejected": _table(server.rejected)}
    return found


def _load(server: Server, note: Note, found: dict[str, Tensor]) -> None:
    moments = [found[k] for k in sorted(k for k in found if k.startswith("moment."))]
    broadcast = [found[k].numpy().tobytes() for k in sorted(k for k in found if k.startswith("broadcast."))]
    vectors = [found[k] for k in sorted(k for k in found if k.startswith("extra."))]
    dumped = {"theta": [found["theta"]], "moments": moments, "broadcast": broadcast, "server_vectors": vectors}
    dumped["norms"] = [found["norms"]] if "norms" in found else []
    server.load(note.round, dumped, _dict(found["versions"]))
    server.rejected = _dict(found["rejected"])


def _table(counts: dict[int, int]) -> Tensor:
    return torch.tensor(sorted(counts.items()), dtype=torch.int64).reshape(-1, 2)


def _dict(table: Tensor) -> dict[int, int]:
    return {int(k): int(v) for k, v in table.tolist()}
