"""FlatModel: a module whose parameters are views of one buffer, so that a step or a copy is one operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fewbits.errors import LocalError
from fewbits.factor.names import private
from fewbits.learn.seeding import draws


class FlatModel:
    """Store parameters, gradients and float buffers of a module in flat buffers; the module computes on views.

    The buffer holds the trainable parameters (a tied one once) and the saved float buffers, such as BatchNorm's
    running statistics. Their order is: private parameters (`fewbits.factor.private`), parameters that travel, buffers
    that travel, private buffers; each group in declaration order. Frozen parameters and integer buffers
    (num_batches_tracked) are neither moved nor exchanged. Convolution weights are row-major: channels_last weights
    would gain 0-3% on channels_last images, but cost a reordering in every `vector()`.

    Args:
        module: any module of float32 tensors on one device; its tensors become views of the buffer.

    Raises:
        LocalError: a tensor is not float32 or not on the device of the others, or no parameter is trainable.

    Example:
        >>> model = FlatModel(nn.Linear(3, 2))
        >>> {name: tuple(x.shape) for name, x in model.named().items()}
        {'weight': (2, 3), 'bias': (2,)}
        >>> model.params.shape, model.grads.shape, model.buffers.shape
        (torch.Size([8]), torch.Size([8]), torch.Size([0]))
    """

    module: nn.Module
    whole: Tensor  # (P+B,) float32: all parameters, then all float buffers; the next four are views of it
    params: Tensor  # (P,) float32: all parameters
    shared: Tensor  # (S+T,) float32: parameters, then buffers, that travel
    shared_params: Tensor  # (S,) float32: the parameters that travel
    shared_grads: Tensor  # (S,) float32: gradients of `shared_params`
    private: tuple[Tensor, Tensor]  # (P-S,) parameters and (B-T,) buffers, float32, that stay with the client
    grads: Tensor  # (P,) float32: gradients of `params`; backward() adds to it
    buffers: Tensor  # (B,) float32: all float buffers
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    private_names: frozenset[str]
    draws: bool  # whether the module may draw random numbers in training (dropout)
    hooks: int = -1  # hooks registered in this process when that was found

    def __init__(self, module: nn.Module) -> None:
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        saved = module.state_dict(keep_vars=True).keys()
        buffers = {name: b for name, b in module.named_buffers() if name in saved and b.is_floating_point()}
        device = _device({**parameters, **buffers})
        self.module, self.draws = module, draws(module)
        self.private_names = frozenset(private(module))
        parameters = dict(sorted(parameters.items(), key=lambda named: named[0] not in self.private_names))
        buffers = dict(sorted(buffers.items(), key=lambda named: named[0] in self.private_names))
        self.parameter_names, self.buffer_names = tuple(parameters), tuple(buffers)
        self._tensors = {**parameters, **buffers}
        self.whole, self._views = _lay_out(self._tensors, device)
        size = sum(p.numel() for p in parameters.values())
        self.params, self.buffers = self.whole[:size], self.whole[size:]
        self.grads = torch.zeros_like(self.params)
        first = sum(p.numel() for name, p in parameters.items() if name in self.private_names)
        last = len(self.whole) - sum(b.numel() for name, b in buffers.items() if name in self.private_names)
        self.shared, self.private = self.whole[first:last], (self.whole[:first], self.whole[last:])
        self.shared_params, self.shared_grads = self.params[first:], self.grads[first:]
        self._grad_views = _views(self.grads, parameters.values())
        self.attach()

    def attach(self) -> None:
        """Point every gradient at `grads` again, because an optimizer's zero_grad() drops it.

        Raises:
            LocalError: the module was moved or a tensor replaced, so that it no longer computes on this buffer.
        """
        for name, tensor in self._tensors.items():
            if tensor.data_ptr() != self._views[name].data_ptr():
                raise LocalError(f"FlatModel: {name} left the flat buffer; build a new FlatModel after moving a module")
        for name in self.parameter_names:
            if self.module.get_parameter(name) is not self._tensors[name]:
                raise LocalError(f"FlatModel: parameter {name} was replaced; change it in place, as copy_() does")
        for name in self.buffer_names:
            if self.module.get_buffer(name) is not self._tensors[name]:
                raise LocalError(f"FlatModel: buffer {name} was replaced; update buffers in place")
        for name, grad in zip(self.parameter_names, self._grad_views, strict=True):
            self._tensors[name].grad = grad

    def named(self) -> dict[str, Tensor]:
        """Return views by name, parameters then float buffers, in storage order; a write changes the model."""
        return dict(self._views)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy a tensor into every name of `named()`; LocalError, and no change, when names or shapes differ."""
        missing, extra = self._views.keys() - values.keys(), values.keys() - self._views.keys()
        if missing or extra:
            raise LocalError(
                f"FlatModel.load: names differ; missing {sorted(missing)}, not in the model {sorted(extra)}"
            )
        for name, view in self._views.items():
            if values[name].shape != view.shape:
                raise LocalError(
                    f"FlatModel.load: {name} has shape {tuple(view.shape)}; got {tuple(values[name].shape)}"
                )
        for name, view in self._views.items():
            view.copy_(values[name])

    def vector(self) -> Tensor:
        """Copy parameters and float buffers to one vector.  # (P+B,)"""
        return self.whole.clone()

    def load_vector(self, vector: Tensor) -> None:
        """Load a vector that `vector()` made; LocalError for another shape."""
        if vector.shape != self.whole.shape:
            raise LocalError(
                f"FlatModel.load_vector: expected {self.params.numel()} parameters and {self.buffers.numel()} buffer "
                f"values in one vector; got shape {tuple(vector.shape)}"
            )
        self.whole.copy_(vector)


def _device(tensors: Mapping[str, Tensor]) -> torch.device:
    if not tensors:
        raise LocalError("FlatModel: the module has no trainable parameter")
    first = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise LocalError(f"FlatModel: parameters and buffers must be float32; {name} is {tensor.dtype}")
        if tensor.device != first:
            raise LocalError(f"FlatModel: all tensors must be on one device; {name} is on {tensor.device}, not {first}")
    return first


def _views(flat: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    views, start = [], 0
    for tensor in like:
        size = math.prod(tensor.shape)
        views.append(flat[start : start + size].view(tensor.shape))
        start += size
    return views


def _lay_out(tensors: Mapping[str, Tensor], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Move tensors to one new buffer, of which they become views."""
    flat = torch.empty(sum(t.numel() for t in tensors.values()), device=device)
    views = dict(zip(tensors, _views(flat, tensors.values()), strict=True))
    for name, tensor in tensors.items():
        views[name].copy_(tensor.detach())
        tensor.data = views[name]  # replaces the storage, not the object: nn.LSTM lists the parameter objects
    return flat, views
