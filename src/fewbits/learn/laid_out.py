"""LaidOut: which tensors a module computed on when it was laid out, and whether it still does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any

from torch import Tensor, nn

from fewbits.errors import LocalError

VALUES, POINTER = methodcaller("values"), methodcaller("data_ptr")
TRAINABLE, SHAPE = attrgetter("requires_grad"), attrgetter("shape")
LATER = "Set up the module before the Server, the Client or the Node is made, or make it anew"


class LaidOut:
    """A module's tensors, as they were. A look at an unchanged module takes a microsecond or so for each.

    Args:
        module: the module.
        parameters: its trainable parameters, by name.
        buffers: those of its buffers that are laid out, by name.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self.module, self.parameters, self.buffers = module, dict(parameters), dict(buffers)
        parts = list(module.modules())
        self._tables: list[Any] = [table for part in parts for table in (part._modules, part._parameters)]
        self._first = [dict(table.items()) for table in self._tables]
        self._parts = self._listed()
        self._all = [x for x in self._parts if isinstance(x, Tensor)]  # frozen ones, too
        self._trainable = [x.requires_grad for x in self._all]
        self._tensors = [*self.parameters.values(), *self.buffers.values()]
        self._pointers = [x.data_ptr() for x in self._tensors]
        self._shapes = [x.shape for x in self._tensors]
        self._like = {name: (tuple(x.shape), x.dtype, x.device) for name, x in self.parameters.items()}
        self._places = [(_getter(module, name), name.rpartition(".")[2], x) for name, x in self.buffers.items()]

    def _listed(self) -> list[Any]:
        return list(chain.from_iterable(map(VALUES, self._tables)))

    def unchanged(self) -> bool:
        """Whether every submodule and tensor is the same object, at the same address, and trained or not as before."""
        now = self._listed()
        return (
            len(now) == len(self._parts)
            and all(map(is_, now, self._parts))
            and list(map(TRAINABLE, self._all)) == self._trainable
            and list(map(POINTER, self._tensors)) == self._pointers
            and list(map(SHAPE, self._tensors)) == self._shapes
            and all(get(name) is x for get, name, x in self._places)
        )

    def check_parameters(self) -> dict[str, Tensor]:
        """The trainable parameters of now, by name, in the order of before.

        Raises:
            LocalError: one was added, removed, frozen or unfrozen, or has another shape, type or device.
        """
        now = {name: x for name, x in self.module.named_parameters() if x.requires_grad}
        for name in self.parameters.keys() - now.keys():
            raise LocalError(f"FlatModel: {name} {self._why_gone(name)}. {LATER}")
        for name in [name for name in now if name not in self.parameters]:
            raise LocalError(f"FlatModel: {name} {self._why_new(name)}. {LATER}")
        for name, like in self._like.items():
            _check_like(name, like, now[name])
        return {name: now[name] for name in self.parameters}

    def _why_gone(self, name: str) -> str:
        everything = dict(self.module.named_parameters(remove_duplicate=False))
        if name not in everything:
            return "was trained when the model was laid out, and it is no parameter of the module any more"
        if everything[name].requires_grad:
            return "was tied to another parameter after the model was laid out"
        return "was frozen after the model was laid out, though it travels; a frozen tensor would not train"

    def _why_new(self, name: str) -> str:
        if any(x is dict(self.module.named_parameters())[name] for x in self._all):
            return "was unfrozen or untied after the model was laid out, so that nothing of it would travel"
        return "was added after the model was laid out, or is no longer tied, so that nothing of it would travel"

    def put_back(self) -> None:
        """Give the module the submodules and parameters that it had, trained or not as before."""
        for table, first in zip(self._tables, self._first, strict=True):
            if isinstance(table, dict):  # a TorchScript module cannot be changed so
                table.clear()
                table.update(first)
        for x, trainable in zip(self._all, self._trainable, strict=True):
            x.requires_grad_(trainable)

    def find(self, name: str) -> Tensor | None:
        """The buffer of now, or None."""
        found = _getter(self.module, name)(name.rpartition(".")[2])
        return found if isinstance(found, Tensor) else None

    def put(self, name: str, tensor: Tensor) -> None:
        """Make this tensor the module's buffer of that name."""
        prefix, _, last = name.rpartition(".")
        part = dict(self.module.named_modules(remove_duplicate=False))[prefix]
        if last in part._buffers:
            setattr(part, last, tensor)
        else:
            part.register_buffer(last, tensor)


def _check_like(name: str, like: tuple[Any, ...], now: Tensor) -> None:
    """LocalError unless the values of `now` can take the place of a tensor of this shape, dtype and device."""
    found = (tuple(now.shape), now.dtype, now.device)
    for what, was, is_now in zip(("shape", "dtype", "device"), like, found, strict=True):
        if was != is_now:
            raise LocalError(f"FlatModel: {name} has {what} {is_now}; it was laid out with {what} {was}. {LATER}")


def _getter(module: nn.Module, name: str) -> Callable[[str], Any]:
    """Looks a buffer up in the submodule that has it; None where there is none."""
    part = dict(module.named_modules(remove_duplicate=False)).get(name.rpartition(".")[0])
    table: Any = {} if part is None else part._buffers
    if isinstance(table, dict):
        return table.get
    return lambda last: dict(table.items()).get(last)  # the table of a TorchScript module has no `get`
