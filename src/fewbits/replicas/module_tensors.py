"""ModuleTensors: the tensors that a module has now, by what becomes of them among replicas."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from fewbits.errors import LocalError
from fewbits.spec import FLOATS


class ModuleTensors(NamedTuple):
    """What a module holds at this moment. Tensors may be replaced by others of the same name, so nobody keeps them."""

    trained: dict[str, Tensor]  # parameters, a tied one once
    frozen: dict[str, Tensor]  # parameters
    floats: dict[str, Tensor]  # saved buffers
    whole: dict[str, Tensor]  # other saved buffers: of integers and booleans

    @staticmethod
    def of(module: nn.Module, but: Collection[str] = ()) -> ModuleTensors:
        """Those of a module, without buffers of these names.

        Raises:
            LocalError: a trainable parameter is sharded, or of other numbers; or it or a buffer is sparse or without
                values.
        """
        parameters, saved = dict(module.named_parameters()), module.state_dict(keep_vars=True).keys()
        buffers = {name: x for name, x in module.named_buffers() if name in saved and name not in but}
        for name, tensor in parameters.items():
            if tensor.requires_grad:
                _check_plain(name, tensor)
        for name, tensor in buffers.items():
            _check_filled(name, tensor)
        return ModuleTensors(
            {name: p for name, p in parameters.items() if p.requires_grad},
            {name: p for name, p in parameters.items() if not p.requires_grad},
            {name: x for name, x in buffers.items() if x.is_floating_point()},
            {name: x for name, x in buffers.items() if not x.is_floating_point()},
        )

    def check_writable(self) -> None:
        """LocalError naming a tensor that an outer step cannot be written to: all but the frozen ones."""
        for name, x in (self.trained | self.floats | self.whole).items():
            if x.is_inference() and not torch.is_inference_mode_enabled():
                raise LocalError(
                    f"{name} was made under torch.inference_mode(), and only there can it be written to; put a clone "
                    "of it in its place"
                )
            if _overlaps(x):
                raise LocalError(
                    f"{name} has several numbers in one place of memory, as expand() makes them (shape "
                    f"{tuple(x.shape)}, strides {x.stride()}); put a clone of it in its place"
                )

    def described(self) -> dict[str, str]:
        """Kind, type and shape of each tensor by its name.

        >>> ModuleTensors.of(nn.Linear(3, 2)).described()
        {'weight': 'float32 [2, 3]', 'bias': 'float32 [2]'}
        """
        return {
            name: f"{kind}{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
            for kind, tensors in zip(("", "frozen ", "buffer ", "buffer "), self, strict=True)
            for name, x in tensors.items()
        }


def changes(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    """What `described` says of two moments, where it differs.

    >>> list(changes({"a": "float32 [2]", "b": "float32 [3]"}, {"a": "frozen float32 [2]"}))
    ['a was float32 [2] and is frozen float32 [2]', 'b was float32 [3] and is gone']
    """
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            yield f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'gone')}"


def _overlaps(x: Tensor) -> bool:
    """Whether entries of a tensor may lie in each other's memory.

    >>> _overlaps(torch.zeros(1).expand(3)), _overlaps(torch.zeros(2, 3).T), _overlaps(torch.zeros(4)[::2])
    (True, False, False)
    """
    reach = 0  # of the dimensions so far, in entries
    for step, n in sorted(zip(x.stride(), x.shape, strict=True)) if x.numel() else ():
        if n > 1:
            if step <= reach:
                return True
            reach += step * (n - 1)
    return False


def _check_plain(name: str, tensor: Tensor) -> None:
    if hasattr(tensor, "device_mesh"):
        raise LocalError(f"{name} is sharded over several devices (DTensor); every rank must have the whole parameter")
    if isinstance(tensor, UninitializedParameter):
        raise LocalError(f"{name} has no shape yet; pass a batch through the model first")
    _check_filled(name, tensor)
    if str(tensor.dtype).removeprefix("torch.") not in FLOATS:
        raise LocalError(f"{name} must be of floats ({', '.join(FLOATS)}); got {tensor.dtype}")


def _check_filled(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_meta:
        raise LocalError(f"{name} must hold all of its numbers; got a tensor of {tensor.layout} on {tensor.device}")
