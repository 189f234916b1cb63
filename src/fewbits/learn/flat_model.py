"""FlatModel: a module whose parameters lie end to end in memory, so that a step or a copy is one operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from weakref import ref

import torch
from torch import Tensor, nn

from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError
from fewbits.factor.coordinates import coordinates
from fewbits.factor.derived import make_leaves, refresh_derived
from fewbits.factor.names import private, travelling_buffers
from fewbits.learn.flat_memory import FlatMemory
from fewbits.learn.laid_out import LaidOut
from fewbits.learn.module_checks import check_module, check_tensors, described
from fewbits.learn.seeding import draws
from fewbits.learn.unit_vectors import unit_vectors

MARK = "_flat_model"  # attribute of a module and its parts: the mark of the FlatModel that it computes on


class FlatModel:
    """Store parameters, gradients and float buffers of a module in flat memory; the module computes on parts of it.

    The memory holds the trainable parameters (a tied one once) and the saved float buffers, such as BatchNorm's
    running statistics. Their order is: private parameters (`fewbits.factor.private`), parameters that travel, buffers
    that travel, private buffers; each group in declaration order. Every tensor has a storage of its size, so that a
    file of some tensors holds no others. Neither moved nor exchanged are frozen parameters, integer buffers
    (num_batches_tracked) and float buffers with infinite or NaN values, such as causal masks. Convolution weights are
    row-major: channels_last weights would gain 0-3% on channels_last images, but cost a reordering in every `vector()`.

    Args:
        module: any module of float32 tensors on one device; its tensors move to the flat memory.

    Raises:
        LocalError: a tensor is not float32 or not on the device of the others, has no shape yet, or no parameter is
            trainable.

    Example:
        >>> model = FlatModel(nn.Linear(3, 2))
        >>> {name: tuple(x.shape) for name, x in model.named().items()}
        {'weight': (2, 3), 'bias': (2,)}
        >>> model.params.shape, model.grads.shape, model.buffers.shape
        (torch.Size([8]), torch.Size([8]), torch.Size([0]))
    """

    module: nn.Module
    whole: Tensor  # (P+B,) float32: all parameters, then all float buffers; the next six are on its numbers
    params: Tensor  # (P,) float32: all parameters
    shared: Tensor  # (S+T,) float32: parameters, then buffers, that travel
    shared_params: Tensor  # (S,) float32: the parameters that travel
    shared_grads: Tensor  # (S,) float32: gradients of `shared_params`
    private: tuple[Tensor, Tensor]  # (P-S,) parameters and (B-T,) buffers, float32, that stay with the client
    travelling: dict[str, Tensor]  # views of `shared`, by name
    grads: Tensor  # (P,) float32: gradients of `params`; backward() adds to it
    buffers: Tensor  # (B,) float32: all float buffers
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    private_names: frozenset[str]
    draws: bool  # whether the module may draw random numbers in training (dropout)
    hooks: int = -1  # hooks registered in this process when that was found

    def __init__(self, module: nn.Module) -> None:
        check_module(module)
        make_leaves(module)
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        buffers = travelling_buffers(module)
        device = check_tensors(parameters, buffers)
        self.module, self.draws = module, draws(module)
        self.private_names = frozenset(private(module))
        parameters = dict(sorted(parameters.items(), key=lambda named: named[0] not in self.private_names))
        buffers = dict(sorted(buffers.items(), key=lambda named: named[0] in self.private_names))
        self.parameter_names, self.buffer_names = tuple(parameters), tuple(buffers)
        self._tensors = {**parameters, **buffers}
        self._memory = FlatMemory(sum(x.numel() for x in self._tensors.values()), device)
        self._cut(sum(p.numel() for p in parameters.values()))
        self.units = unit_vectors(module)
        self._mark = _Mark(self)
        self.undisturbed = False  # nobody else's code has run since the last `attach`, and none will before it is False
        self.foreign = False  # code of others may have changed the module since a ModuleSnapshot put it back
        self.left_out: dict[str, str] = {}  # buffers that training made something else, and what; they do not travel
        self._take(self._tensors)

    def _cut(self, size: int) -> None:
        """Cut the memory into parts. What travels shares no storage with what does not."""
        memory, numels = self._memory, {name: x.numel() for name, x in self._tensors.items()}
        stays = [numels[name] if name in self.private_names else 0 for name in numels]
        first, last = sum(stays[: len(self.parameter_names)]), sum(numels.values())
        last -= sum(stays[len(self.parameter_names) :])
        self.whole = memory.whole
        self.params, self.buffers = memory.part(0, (size,)), memory.part(size, (len(self.whole) - size,))
        self.grads = torch.zeros_like(self.params)
        self.shared = memory.part(first, (last - first,))
        self.private = memory.part(0, (first,)), memory.part(last, (len(self.whole) - last,))
        self.shared_params, self.shared_grads = self.shared[: size - first], self.grads[first:]
        self._parts = memory.parts(self._tensors)
        travels = {name: x for name, x in self._tensors.items() if name not in self.private_names}
        self.travelling = dict(zip(travels, _views(self.shared, travels.values()), strict=True))

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of these tensors, and let the module compute on the flat memory through them."""
        for part in self.module.modules():
            vars(part)[MARK] = self._mark
        self._parts = self._memory.parts(
            self._parts
        )  # anew, because share_memory() moves a storage for all tensors on it
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._parts[name].copy_(tensor)
        for name, tensor in tensors.items():
            tensor.data = self._parts[name]  # replaces the storage, not the object: nn.LSTM lists the parameter objects
        self._tensors = dict(tensors)
        # anew, because double() and float() give a gradient other memory, but leave it the same tensor
        trained = [tensors[name] for name in self.parameter_names]
        self._gradients = list(zip(trained, _views(self.grads, trained), strict=True))
        buffers = {name: tensors[name] for name in self.buffer_names}
        self._laid_out = LaidOut(self.module, {name: tensors[name] for name in self.parameter_names}, buffers)
        self.attach()

    def attach(self) -> tuple[str, ...]:
        """Take over tensors that were replaced, and point every gradient at `grads` again.

        A parameter or buffer of the same shape, as `load_state_dict(assign=True)` leaves, is taken with its values. An
        optimizer's zero_grad() drops the gradients. A buffer of another shape or type does not travel any more: the
        module gets the former one back, with the values that it last had.

        Returns:
            Names of the buffers that the module got back.

        Raises:
            LocalError: a trainable parameter was added, removed, frozen, unfrozen, or got another shape, type or
                device, or another FlatModel has the module by now. Nothing has changed then.
        """
        changed: tuple[str, ...] = ()
        if self.undisturbed:
            return changed
        if not self._laid_out.unchanged():
            changed = self._take_over()
        for tensor, grad in self._gradients:
            if tensor.grad is not grad:
                tensor.grad = grad
        return changed

    def take_gradients(self) -> None:
        """Take over gradients that `backward` made anew, as it does after an optimizer's zero_grad(), into `grads`."""
        for tensor, grad in self._gradients:
            if tensor.grad is not grad:
                grad.zero_() if tensor.grad is None else grad.copy_(tensor.grad)
                tensor.grad = grad

    def _take_over(self) -> tuple[str, ...]:
        for name, part in self.module.named_modules():
            mark = vars(part).get(MARK)
            if mark is not None and mark.owner() not in (None, self):
                raise LocalError(
                    f"FlatModel: {name or 'the module'} was laid out again, by another Server, Client, Node or run; "
                    "give each one a copy, as copy.deepcopy makes it"
                )
        found = self._laid_out.check_parameters()
        before = {name: self._tensors[name] for name in self.buffer_names}
        now = {name: self._laid_out.find(name) for name in before}
        lost = {name: described(x) for name, x in now.items() if not _fits(x, self._parts[name])}
        for name, tensor in before.items():
            x = self._parts[name] if name in lost else now[name]
            assert x is not None
            tensor.data = x.detach()
            self._laid_out.put(name, tensor)
        self.left_out |= lost
        self._take(found | before)
        return tuple(lost)

    def repair(self) -> str:
        """Put back the layers and parameters that were laid out, where `attach` cannot take those of now.

        Returns:
            Why it could not; "": nothing was wrong.
        """
        if self._laid_out.unchanged():
            return ""
        try:
            self._laid_out.check_parameters()
        except LocalError as error:
            self._laid_out.put_back()
            for name, tensor in self._tensors.items():
                tensor.grad, tensor.data = None, self._parts[name]
            self._take(self._tensors)
            return str(error)
        return ""

    def release(self) -> None:
        """Give every tensor memory of its own, outside the flat memory, and take the gradients away.

        The values stay. A later `attach` takes the tensors in again.
        """
        for tensor in self._tensors.values():
            tensor.data = tensor.data.clone()
        for tensor, _ in self._gradients:
            tensor.grad = None
        refresh_derived(self.module)
        for part in self.module.modules():
            vars(part).pop(MARK, None)

    def leave_out(self, names: tuple[str, ...], before: Tensor) -> None:
        """Let these tensors be as in `before`, which is like `whole` or like `shared`."""
        views = self.travelling if before.shape == self.shared.shape else self._parts
        for name, x in pieces(before, views).items() if names else ():
            if name in names:
                views[name].copy_(x)

    def refresh(self) -> None:
        """Compute unit vectors that describe weights, as spectral norm's, from the weights of now."""
        inside = coordinates(self.module) if self.units else None
        if inside is not None:  # the weights are those of the last forward pass
            with torch.no_grad():
                inside(self.module)
        for unit in self.units:
            unit.refresh()

    def take_mean(self, vector: Tensor) -> None:
        """Load a vector like `whole` that averaging made, with its unit vectors computed anew in both."""
        self.whole.copy_(vector)
        if self.units:
            self.refresh()
            vector.copy_(self.whole)

    def named(self) -> dict[str, Tensor]:
        """Return tensors by name, parameters then float buffers, in memory's order; a write changes the model."""
        return dict(self._parts)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy a tensor into every name of `named()`; LocalError, and no change, when names or shapes differ."""
        missing, extra = self._parts.keys() - values.keys(), values.keys() - self._parts.keys()
        if missing or extra:
            raise LocalError(
                f"FlatModel.load: names differ; missing {sorted(missing)}, not in the model {sorted(extra)}"
            )
        for name, view in self._parts.items():
            if values[name].shape != view.shape:
                raise LocalError(
                    f"FlatModel.load: {name} has shape {tuple(view.shape)}; got {tuple(values[name].shape)}"
                )
        for name, view in self._parts.items():
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


class _Mark:
    """Says whose module it is; a copy of a module, or a file of it, gets None in its place."""

    def __init__(self, owner: FlatModel) -> None:
        self.owner = ref(owner)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _views(flat: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    views, start = [], 0
    for tensor in like:
        size = math.prod(tensor.shape)
        views.append(flat[start : start + size].view(tensor.shape))
        start += size
    return views


def _fits(found: Tensor | None, part: Tensor) -> bool:
    return found is not None and found.shape == part.shape and found.dtype == part.dtype and found.device == part.device
