"""A module whose parameters lie end to end in one buffer, so that a step, a copy or a sum is one operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fewbits.errors import LocalError
from fewbits.factor.names import private
from fewbits.learn.seeding import draws


class FlatModel:
    """Lay the parameters, the gradients and the float buffers of a module out flat; the module computes on views.

    Laid out are the trainable parameters (a tied one once) and the saved float buffers, such as BatchNorm's running
    statistics: first the private parameters (`fewbits.factor.private`), then those that travel, then the buffers that
    travel, then the private ones, each in declaration order. Frozen parameters and integer buffers
    (num_batches_tracked) stay as they are and are not exchanged. Convolution weights are row-major here: channels_last
    weights inside the buffer gain 0-3% once the images are channels_last, and would cost a reordering in every
    `vector()`.

    Raises LocalError when a tensor to be laid out is not float32 or not on the same device as the others.

    >>> model = FlatModel(nn.Linear(3, 2))
    >>> {name: tuple(x.shape) for name, x in model.named().items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> model.params.shape, model.grads.shape, model.buffers.shape
    (torch.Size([8]), torch.Size([8]), torch.Size([0]))
    """

    module: nn.Module
    whole: Tensor  # (P+B,) float32: all parameters, then all float buffers; the others but `grads` are its parts
    params: Tensor  # (P,) float32: all parameters
    shared: Tensor  # (S+T,) float32: all that travels: parameters, then buffers
    shared_params: Tensor  # (S,) float32: the parameters that travel
    shared_grads: Tensor  # (S,) float32: their gradients
    private: tuple[Tensor, Tensor]  # (P-S,) parameters and (B-T,) buffers, float32, that stay
    grads: Tensor  # (P,) float32: their gradients, which backward() adds to
    buffers: Tensor  # (B,) float32: all float buffers
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    private_names: frozenset[str]
    draws: bool  # the module may draw at random while it trains (dropout)

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
        """Point every gradient at `grads` again: an optimizer's zero_grad() drops it.

        LocalError when the module no longer computes on this buffer, because it was moved or a tensor was replaced.
        """
        for name, tensor in self._tensors.items():
            if tensor.data_ptr() != self._views[name].data_ptr():
                raise LocalError(f"FlatModel: {name} left the flat buffer; build a new FlatModel after moving a module")
        for name in self.buffer_names:
            if self.module.get_buffer(name) is not self._tensors[name]:
                raise LocalError(f"FlatModel: buffer {name} was replaced; update buffers in place")
        for name, grad in zip(self.parameter_names, self._grad_views, strict=True):
            self._tensors[name].grad = grad

    def named(self) -> dict[str, Tensor]:
        """Views by name: parameters, then float buffers, as they are laid out; writing to one writes the model."""
        return dict(self._views)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy in a tensor for every name of `named()`; LocalError, and no change, on another set of names or shape."""
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
        """A copy of parameters and float buffers as one vector.  # (P+B,)"""
        return self.whole.clone()

    def load_vector(self, vector: Tensor) -> None:
        """Copy in what `vector()` gave; LocalError on another shape."""
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
    """Move tensors into one new buffer; they become views of it."""
    flat = torch.empty(sum(t.numel() for t in tensors.values()), device=device)
    views = dict(zip(tensors, _views(flat, tensors.values()), strict=True))
    for name, tensor in tensors.items():
        views[name].copy_(tensor.detach())
        tensor.data = views[name]  # swaps the storage, so that lists that hold the parameter (nn.LSTM) follow
    return flat, views
