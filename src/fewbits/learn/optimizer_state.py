"""An optimizer's state as bytes: safetensors, with numbers in its header; no pickle."""

from __future__ import annotations

import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.optim import Optimizer

from fewbits.errors import LocalError, WireError

HEADER = "state"  # the entry that holds the numbers
MOST = 2**53  # steps; a float holds each


def dump_optimizer(optimizer: Optimizer, steps: int) -> bytes:
    """What `load_optimizer` undoes: the optimizer's tensors and numbers for each parameter, and the steps taken.

    Raises:
        LocalError: its state has something else than tensors, numbers, text and None.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.ones(2))
        >>> one = torch.optim.SGD([x], 0.1, momentum=0.9)
        >>> x.grad = torch.ones(2)
        >>> one.step()
        >>> load_optimizer(torch.optim.SGD([x], 0.1, momentum=0.9), dump_optimizer(one, 1))
        1
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for place, entries in optimizer.state_dict()["state"].items():
        numbers[str(place)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{place}.{name}"] = value.detach().cpu().contiguous()
            elif value is None or isinstance(value, bool | int | float | str):
                numbers[str(place)][name] = value
            else:
                raise LocalError(
                    f"keep_optimizer: {type(optimizer).__name__} has a {type(value).__name__} as {name!r} in its "
                    "state; tensors, numbers and text can stay with a client"
                )
    header = {"steps": steps, "numbers": numbers}
    return save_tensors(tensors, {HEADER: json.dumps(header)})


def load_optimizer(optimizer: Optimizer, data: bytes) -> int:
    """Give a new optimizer the state that `dump_optimizer` wrote; return the steps taken.

    Rates and other options stay those of the new one.

    Raises:
        WireError: the bytes are damaged, or of other parameters.
    """
    try:
        tensors = load_tensors(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER])
        steps = header["steps"]
        state: dict[int, dict[str, Any]] = {int(place): dict(found) for place, found in header["numbers"].items()}
        for name, x in tensors.items():
            place, _, key = name.partition(".")
            state.setdefault(int(place), {})[key] = x
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, OverflowError) as error:
        raise WireError(f"an optimizer's state is damaged: {error}") from None
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(steps, int) or not 0 <= steps <= MOST or not set(state) <= set(range(len(shapes))):
        raise WireError(f"an optimizer's state is of other parameters; there are {len(shapes)}")
    for place, entries in state.items():
        for name, x in entries.items():
            if isinstance(x, Tensor) and x.dim() and x.shape != shapes[place]:
                raise WireError(
                    f"an optimizer's {name} of parameter {place} is {tuple(x.shape)}; expected {tuple(shapes[place])}"
                )
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return steps
