"""Coordinates: a module whose parameters are points of a random subspace, theta = theta0 + A s, and which trains s."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fewbits.codecs import Basis
from fewbits.errors import LocalError
from fewbits.factor.names import private

Model = TypeVar("Model", bound=nn.Module)
NAME = "coordinates"  # the parameter s, of the module itself
PLACED = "_in_subspace"  # attribute of a part of the module: names of its tensors that are computed from s


class Coordinates:
    """A forward pre-hook of a module: computes theta = theta0 + sum_k A_k s_k, and puts it where parameters were.

    s is the module's parameter `coordinates`: K vectors of d numbers, end to end; torch's autograd gives its gradient,
    A_k^T g. The parameters that the subspace took are tensors like those of `torch.nn.utils.weight_norm` now: computed
    before every forward pass of the whole module.

    Args:
        module: the module, whose `coordinates` is s.
        places: for every tensor of theta the (part, attribute) pairs that hold it; a tied one has several.
        shapes: of these tensors.
        start: theta0.  # (D,)
        bases: A_k, each D x d.
    """

    def __init__(
        self,
        module: nn.Module,
        places: Sequence[Sequence[tuple[nn.Module, str]]],
        shapes: Sequence[torch.Size],
        start: Tensor,
        bases: Sequence[Basis],
    ) -> None:
        self.module, self.places, self.bases = module, places, tuple(bases)
        self.shapes, self.sizes = list(shapes), [shape.numel() for shape in shapes]
        parts = {part for pairs in places for part, _ in pairs}
        self.order = [(part, tuple(part._parameters)) for part in module.modules() if part in parts]
        self._start, self._base = start, start  # the latter: with what the resting coordinates add
        self._trained = range(len(self.bases))  # the K's that train

    def __deepcopy__(self, memo: dict[int, Any]) -> Coordinates:
        """A copy for a copy of the module; theta0, which nothing writes to, is one for both."""
        found = copy.copy(self)
        memo[id(self)] = found
        found.module, found.places, found.order = copy.deepcopy((self.module, self.places, self.order), memo)
        return found

    @property
    def start(self) -> Tensor:
        """theta0.  # (D,)"""
        return self._start

    @start.setter
    def start(self, start: Tensor) -> None:
        if start.shape != self._start.shape:
            raise LocalError(f"coordinates: theta0 has {len(self._start)} numbers; got {len(start)}")
        self._start = start.detach().to(self._start.device, torch.float32)
        self.train(self._trained)

    @property
    def dim(self) -> int:
        """d."""
        return self.bases[0].dim

    @property
    def numel(self) -> int:
        """Numbers in s."""
        return len(self.bases) * self.dim

    @torch.no_grad()
    def train(self, which: range) -> None:
        """Train these K's; the others rest at the values of now."""
        s, self._base, self._trained = self._s, self._start, which
        for k, basis in enumerate(self.bases):
            part = s[k * self.dim : (k + 1) * self.dim]
            if k not in self._trained and bool(part.any()):
                self._base = self._base + basis.expand(part)

    @property
    def _s(self) -> Tensor:
        s = self.module._parameters[NAME]
        assert s is not None
        return s

    def theta(self) -> tuple[Tensor, ...]:
        """The tensors of theta, with a graph that leads to s."""
        return _Theta.apply(self._s, self, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]

    def __call__(self, module: nn.Module, args: tuple[Any, ...] = ()) -> None:
        """Compute theta, and put it in its places."""
        for places, x in zip(self.places, self.theta(), strict=True):
            for part, name in places:
                setattr(part, name, x)

    @torch.no_grad()
    def expanded(self, s: Tensor, training: bool = False) -> Tensor:
        """theta of these coordinates; in training those that rest are the values of when `train` was called.

        # (K d,) -> (D,)
        """
        if self._start.device != s.device:
            self._start, self._base = self._start.to(s.device), self._base.to(s.device)
        base, which = (self._base, self._trained) if training else (self._start, range(len(self.bases)))
        theta = base
        for k in which:
            theta = self.bases[k].moved(theta, s[k * self.dim : (k + 1) * self.dim])
        return base.clone() if theta is base else theta

    def projected(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """A^T g of the gradients of the tensors of theta; zero for what rests.  # (K d,)"""
        device = self._base.device
        g = torch.cat(
            [
                torch.zeros(n, device=device) if x is None else x.reshape(-1)
                for n, x in zip(self.sizes, gradients, strict=True)
            ]
        )
        found = [
            basis.project(g) if k in self._trained else torch.zeros(self.dim, device=device)
            for k, basis in enumerate(self.bases)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


class _Theta(torch.autograd.Function):
    """s -> the tensors of theta."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, of: Coordinates, training: bool) -> tuple[Tensor, ...]:
        ctx.of = of
        ctx.set_materialize_grads(False)
        theta = of.expanded(s, training and ctx.needs_input_grad[0])
        return tuple(x.view(shape) for x, shape in zip(theta.split(of.sizes), of.shapes, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.of.projected(gradients), None, None


def coordinates(module: nn.Module) -> Coordinates | None:
    """The module's coordinates; None: it trains its own parameters.

    >>> coordinates(nn.Linear(2, 1)) is None
    True
    """
    hooks = getattr(module, "_forward_pre_hooks", {}).values()
    return next((hook for hook in hooks if isinstance(hook, Coordinates)), None)


def enter_subspace(model: Model, bases: Callable[[int], Sequence[Basis]]) -> Model:
    """Let a model train coordinates in place of its parameters, in place; frozen and private ones stay what they are.

    A model that has coordinates already does not change.

    Args:
        model: any module of float32 parameters.
        bases: D -> the matrices A_k; D is how many numbers the subspace takes.

    Raises:
        LocalError: the model has an attribute `coordinates`, is a TorchScript module, or nothing of it is trainable.

    Example:
        >>> from fewbits import Key
        >>> model = enter_subspace(nn.Linear(64, 10), lambda numel: [Basis(numel, 16, Key(7), "sparse")])
        >>> [(name, tuple(p.shape)) for name, p in model.named_parameters()]
        [('coordinates', (16,))]
    """
    if coordinates(model) is not None:
        return model
    if hasattr(model, NAME):
        raise LocalError(f"this {type(model).__name__} has an attribute {NAME} of its own; call it by another name")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise LocalError("a TorchScript module computes on its own parameters, and cannot train inside a subspace")
    taken = _taken(model)
    if not taken:
        raise LocalError("no trainable parameter of this model travels, so there is nothing to move in a subspace")
    tensors = [tensor for tensor, _ in taken]
    start = torch.cat([x.detach().reshape(-1) for x in tensors])
    found = Coordinates(model, [places for _, places in taken], [x.shape for x in tensors], start, bases(len(start)))
    for _, places in taken:
        for part, name in places:
            del part._parameters[name]
            vars(part)[PLACED] = (*vars(part).get(PLACED, ()), name)
    s = nn.Parameter(torch.zeros(found.numel, device=start.device))
    model.register_parameter(NAME, s)
    model.register_forward_pre_hook(found)
    with torch.no_grad():
        found(model)
    return model


def _taken(model: nn.Module) -> list[tuple[nn.Parameter, list[tuple[nn.Module, str]]]]:
    """The parameters that travel, each once, and all places of each."""
    stays, names = set(private(model)), dict(model.named_parameters())
    chosen = [p for name, p in names.items() if p.requires_grad and name not in stays]
    places: dict[int, list[tuple[nn.Module, str]]] = {id(p): [] for p in chosen}
    for part in model.modules():
        for name, p in part._parameters.items():
            if p is not None and id(p) in places:
                places[id(p)].append((part, name))
    return [(p, places[id(p)]) for p in chosen]


def leave_subspace(model: Model) -> Model:
    """Undo `enter_subspace` in place, and return the model: its parameters are those of now."""
    found = coordinates(model)
    if found is None:
        return model
    with torch.no_grad():
        theta = found.theta()
    for places, x in zip(found.places, theta, strict=True):
        parameter = nn.Parameter(x.clone())
        for part, name in places:
            delattr(part, name)
            part.register_parameter(name, parameter)
            vars(part).pop(PLACED, None)
    del model._parameters[NAME]
    for part, names in found.order:
        present = dict(part._parameters)
        part._parameters.clear()
        part._parameters.update({name: present[name] for name in names if name in present} | present)
    for number in [n for n, hook in model._forward_pre_hooks.items() if hook is found]:
        del model._forward_pre_hooks[number]
    return model
