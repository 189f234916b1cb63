"""`fewbits export`: the model that a run left, as one frame or as a plain module."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from fewbits.cli.merged import plain_model
from fewbits.cli.merged_call import configuration
from fewbits.cli.screen import screen
from fewbits.codecs import Raw, chain, flat
from fewbits.engines.common.run_files import MODEL, NODES, write_tensors
from fewbits.errors import LocalError
from fewbits.files import check_file, write_atomically
from fewbits.links import Sender, save_model
from fewbits.rng import Key
from fewbits.spec import Spec

FRAME = "model.frame"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="The file; RUN/model.frame when not given.")] = None,
    node: Annotated[int | None, typer.Option(help="Without a server: save this node's model, not the mean.")] = None,
    merged: Annotated[
        Path | None, typer.Option(help="Instead of a frame: a safetensors file of a plain module.", metavar="FILE")
    ] = None,
    client: Annotated[int | None, typer.Option(help="With --merged: this client's personal model.")] = None,
) -> None:
    """Save a run's final model as one frame of its values and their places; zeros cost almost nothing.

    Without a server, the mean of the nodes' models has fewer zeros than each of them; --node saves the model of one.
    `fewbits inspect` shows the content, and `fewbits.load_model` gives the state dict back, bit for bit. OUT.json has
    the names and shapes.

    With --merged the weights are those of a plain module, with factors and LoRA adapters multiplied out, and the lines
    that load them are printed. This works for the folder of fb.federate with adapters, too.
    """
    if merged is not None:
        _export_merged(run, merged, client, {"--out": out, "--node": node})
        return
    if client is not None:
        raise LocalError("export: --client goes with --merged, such as --merged model.safetensors --client 3")
    state, target = _state(run) if node is None else _node(run, node), out or run / FRAME
    check_file(target)
    floats = {name: x for name, x in state.items() if x.is_floating_point()}
    dense = len(Sender(flat(chain(Raw())), Spec.of(floats), Key(0)).send(floats))
    size, numbers = save_model(state, target), sum(x.numel() for x in floats.values())
    left = sum(int(x.count_nonzero()) for x in floats.values())
    table = Table("as", header_style="bold")
    for name in ("bytes", "of dense", "bits per number"):
        table.add_column(name, justify="right")
    for name, length in ((f"dense frame, {numbers:,} numbers", dense), (f"{target}, {left:,} not zero", size)):
        table.add_row(name, f"{length:,}", f"{length / dense:.1%}", f"{8 * length / numbers:.2f}")
    screen().print(table)


def _export_merged(run: Path, target: Path, client: int | None, others: Mapping[str, object]) -> None:
    """Write the plain module, and print how to load it."""
    for option, value in others.items():
        if value is not None:
            raise LocalError(f"export: give --merged or {option}, not both")
    check_file(target)
    found = plain_model(run, client, target)
    write_tensors(found.tensors, target, {})
    if found.configuration is not None:
        write_atomically(configuration(target), found.configuration.encode())
    numbers = sum(x.numel() for x in found.tensors.values())
    screen().print(f"{target}: {numbers:,} numbers; it loads by", markup=False, highlight=False, soft_wrap=True)
    screen().print(f"\n{found.lines}", markup=False, highlight=False, soft_wrap=True)


def _state(run: Path) -> dict[str, Tensor]:
    """The tensors of the run's final model."""
    path = run / MODEL
    try:
        return load(path.read_bytes())
    except OSError:
        raise LocalError(f"{run} holds no finished run: there is no {MODEL}") from None
    except SafetensorError as error:
        raise LocalError(f"{path} is not a safetensors file: {error}") from None


def _node(run: Path, node: int) -> dict[str, Tensor]:
    """The tensors of one node's final model."""
    path = run / NODES
    if not path.is_file():
        raise LocalError(f"{run} holds no finished run without a server: there is no {NODES}")
    try:
        with safe_open(path, "pt") as file:
            models, layout = file.get_tensor("models"), json.loads((file.metadata() or {})["layout"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise LocalError(f"{path} does not hold the nodes' models: {error}") from None
    if not 0 <= node < len(models):
        raise LocalError(f"export: this run has the nodes 0..{len(models) - 1}; got {node}")
    pieces = torch.split(models[node], [math.prod(shape) for _, shape in layout])
    return {name: x.reshape(shape) for (name, shape), x in zip(layout, pieces, strict=True)}
