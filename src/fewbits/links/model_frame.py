"""A trained model as one frame, without loss: where it is not zero, and the values there.

A JSON file beside the frame holds the tensors' names and shapes, which the ends of a link agree on before their first
frame. It has the form of a run's wire.json, so `fewbits inspect` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs import Threshold, chain, flat
from fewbits.coders import Auto
from fewbits.errors import LocalError, WireError
from fewbits.files import write_atomically
from fewbits.json_text import json_text
from fewbits.links.identity import codec_hash
from fewbits.links.receiver import Receiver
from fewbits.links.sender import Sender
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

CODEC = flat(chain(Threshold(0.0), Auto()))
WHOLE = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
ALWAYS = 10**9  # bytes that a model may take, however short its frame is
RATIO = 64  # bytes in memory for one of the frame; a model of zeros alone has no bound of its own
EXACT = 2**53  # integers up to here travel as float64 without loss


def save_model(state: Mapping[str, Tensor], path: Path | str) -> int:
    """Write a state dict as one frame, and PATH.json that describes it; returns the frame's length in bytes.

    Zeros cost next to nothing: the frame holds where the model is not zero, and the values there. Every value comes
    back bit for bit, except that -0.0 becomes 0.0. Integer tensors travel as float64.

    Args:
        state: tensors by name, as from `Module.state_dict()`.
        path: of the frame; files that exist are replaced once the new ones are complete.

    Raises:
        LocalError: a tensor is not finite, or holds an integer beyond 2^53; the message names it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model({"weight": torch.tensor([0.0, 0.5] * 500)}, f"{folder}/model.frame")
    ...     load_model(f"{folder}/model.frame")["weight"].count_nonzero()
    28
    tensor(500)
    """
    path = Path(path)
    floats = {name: _as_float(name, x) for name, x in state.items()}
    spec = Spec.of(floats)
    assert isinstance(spec, TreeSpec)
    frame = Sender(CODEC, spec, Key(0)).send(floats)
    integers = {name: _kind(x) for name, x in state.items() if not x.is_floating_point()}
    write_atomically(_note(path), json_text([_description(spec) | {"integers": integers}], indent=2).encode() + b"\n")
    write_atomically(path, frame)
    return len(frame)


def load_model(path: Path | str, max_bytes: int | None = None) -> dict[str, Tensor]:
    """The state dict that `save_model` wrote, on the CPU.

    Args:
        path: of the frame; PATH.json must lie beside it.
        max_bytes: the most memory that the tensors may take, since zeros cost no bytes in the frame; None: 1 GB, or 64
            times the frame where that is more.

    Raises:
        LocalError: a file is missing, PATH.json does not describe a model, or its tensors take more than `max_bytes`.
        WireError: the frame is damaged, or of another model than PATH.json describes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_model({"steps": torch.tensor([3, 0])}, f"{folder}/model.frame")
    ...     load_model(f"{folder}/model.frame")
    {'steps': tensor([3, 0])}
    """
    path = Path(path)
    try:
        frame, note = path.read_bytes(), json.loads(_note(path).read_text())
    except OSError as error:
        raise LocalError(f"load_model: {error.filename} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"load_model: {_note(path)} is not JSON: {error}") from None
    if max_bytes is not None:
        check_whole("load_model: max_bytes", max_bytes, 1, numpy=True)
    spec, integers = _parsed(note, _note(path))
    _check_size(spec, max_bytes or max(ALWAYS, RATIO * len(frame)), len(frame), path)
    found = Receiver(CODEC, spec).receive(frame)
    return {name: x.to(getattr(torch, integers[name])) if name in integers else x for name, x in found.items()}


def _check_size(spec: TreeSpec, most: int, frame_bytes: int, path: Path) -> None:
    wanted = sum(leaf.numel * leaf.bits // 8 for _, leaf in spec)
    if wanted > most:
        raise LocalError(
            f"load_model: {_note(path)} asks for {wanted:,} bytes of memory for a frame of {frame_bytes:,} bytes; at "
            f"most {most:,} are taken. Give max_bytes={wanted} if you trust the file"
        )


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _as_float(name: str, x: Tensor) -> Tensor:
    x = x.detach().cpu()
    if x.is_floating_point():
        return x
    if x.is_complex() or (x.numel() and int(x.abs().max() if x.dtype != torch.bool else 1) > EXACT):
        raise LocalError(f"save_model: {name} must hold floats or integers up to 2^53; got {_kind(x)}")
    return x.to(torch.float64)


def _description(spec: TreeSpec) -> dict[str, Any]:
    tensors = [[name, list(leaf.shape), leaf.dtype] for name, leaf in spec]
    return {"link": "model", "codec": repr(CODEC), "hash": f"{codec_hash(CODEC, spec):04X}", "tensors": tensors}


def _leaf(shape: object, dtype: str) -> Spec:
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        raise TypeError(f"a shape is a list of whole numbers; got {shape!r}")
    return Spec(tuple(shape), dtype)


def _parsed(note: Any, where: Path) -> tuple[TreeSpec, dict[str, str]]:
    try:
        (link,) = note
        spec = TreeSpec(tuple((str(name), _leaf(shape, dtype)) for name, shape, dtype in link["tensors"]))
        integers = {str(name): str(kind) for name, kind in link["integers"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LocalError(f"load_model: {where} does not describe a model: {error}") from None
    odd = [kind for kind in integers.values() if kind not in WHOLE]
    if odd:
        raise WireError(
            f"load_model: {where} names integer tensors of type {odd[0]!r}; the types are {', '.join(WHOLE)}"
        )
    return spec, integers
