"""A finished run's model as a plain module, and the lines that load it: without factors, coordinates and fewbits."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fewbits.cli.config import RunConfig
from fewbits.cli.merged_call import Merged, merged_call
from fewbits.cli.named_object import is_named_object, model_function, named_model
from fewbits.cli.prepared import load_data, prepare
from fewbits.data.table import is_table
from fewbits.engines.common.initial_model import takes_key
from fewbits.engines.common.run_files import NODES, of_a_call
from fewbits.engines.simulation import Federation
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.factor.layers import factored
from fewbits.factor.merge import is_plain, merge
from fewbits.rng import Key


def plain_model(run: Path, client: int | None, file: Path) -> Merged:
    """A run's model as plain tensors, and the lines that load them.

    Args:
        run: its folder.
        client: whose model, where the method leaves each client its own.
        file: where the caller writes the tensors.

    Raises:
        LocalError: the folder holds no finished run of a command, and none of a call with LoRA adapters; or the run has
            no such client.
    """
    if of_a_call(run):
        return merged_call(run, client, file)
    model, config = _of_a_command(run, client)
    return Merged(model.state_dict(), loading_lines(config, file))


def _of_a_command(run: Path, client: int | None) -> tuple[nn.Module, RunConfig]:
    """The public model, or the personal one of a client, as a plain module; and the run's settings."""
    if (run / NODES).is_file():
        raise LocalError(f"{run} is a run without a server: its model is plain; leave out --merged")
    config = RunConfig.read(run)
    prepared = prepare(config, load_data(config))
    federation = Federation(prepared.task, prepared.method, config.schedule(), prepared.key, run)
    if not federation.finished:
        raise LocalError(f"{run} is not finished; continue it with fewbits train --resume {run}")
    personal = prepared.method.personal
    if personal and client is None:
        last = config.clients - 1
        raise LocalError(f"{config.method} leaves each client a model of its own; give --client, one of 0..{last}")
    if client is not None and not personal:
        raise LocalError(f"{config.method} has one model for all clients; leave out --client {client}")
    model = federation.client_model(client or 0)  # as clients hold it: its accuracy is the one that was reported
    return duplicate(model) if is_plain(model) else merge(model), config


def loading_lines(config: RunConfig, file: Path) -> str:
    """Python lines that load the file into a module of the run's model.

    >>> print(loading_lines(RunConfig(model="torch.nn:Identity"), Path("net.safetensors")))
    from safetensors.torch import load_file
    from torch.nn import Identity
    <BLANKLINE>
    model = Identity()
    model.load_state_dict(load_file("net.safetensors"))
    """
    if is_named_object(config.model):
        module, _, path = config.model.partition(":")
        imports, make = f"from {module} import {path.partition('.')[0]}", f"{path}()"
        if takes_key(model_function(config.model)):
            imports, make = f"{imports}\nfrom fewbits import Key", f"{path}(Key(0))"
        built = named_model(config.model, Key(0))
        if hasattr(built, "merge_and_unload") and not any(factored(built)):
            make = f"{make}.merge_and_unload()"
        elif not is_plain(built):  # the user's function makes factors
            imports, make = f"{imports}\nfrom fewbits import merge", f"merge({make})"
    else:
        imports = "from fewbits import Key, data, models"
        known = f'data_info("{config.data}")'
        if is_table(config.data):
            folder = "" if config.data_dir is None else f', "{config.data_dir}"'
            known = f'load("{config.data}"{folder})'
        make = f'models.build("{config.model}", data.{known}, Key(0))'
    lines = sorted([*imports.splitlines(), "from safetensors.torch import load_file"])
    return "\n".join([*lines, "", f"model = {make}", f'model.load_state_dict(load_file("{file.as_posix()}"))'])
