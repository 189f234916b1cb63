"""Seed the global generators of torch, NumPy and Python from a key, for code of the user that draws from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from fewbits.factor.factors import Factors
from fewbits.rng import Key

# Classes known not to draw. Any other class may call random functions in its forward.
QUIET = {
    *(nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softmax, nn.LogSoftmax),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(Factors, parametrize.ParametrizationList, nn.ModuleDict),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
}
# Losses known not to draw, as functions and as modules without hooks.
QUIET_LOSSES: tuple[object, ...] = (
    *(functional.cross_entropy, functional.nll_loss, functional.mse_loss, functional.l1_loss),
    *(functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits),
    *(functional.smooth_l1_loss, functional.huber_loss, functional.kl_div),
)
QUIET_CRITERIA = {
    *(nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.L1Loss, nn.BCELoss, nn.BCEWithLogitsLoss),
    *(nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss),
}
# Where a module, and a tensor, lists the functions of others that it calls.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PLAIN = (torch.Tensor, nn.Parameter)
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
OURS = "fewbits."  # how the modules of this package begin, which draw from keys alone


def hooks_registered() -> int:
    """Hooks of modules and tensors that were registered in this process so far."""
    return RemovableHandle.next_id


_guarded: ContextVar[bool] = ContextVar("fewbits.learn.seeding.guarded", default=False)


def draws(module: nn.Module) -> bool:
    """Return False only when no part of the module, and nothing hooked to it, can draw random numbers."""
    if any(getattr(every_module, f"_global{hooks}") for hooks in HOOKS):
        return True
    tensors = [*module.parameters(), *module.buffers()]
    return any(_part_draws(part, QUIET) for part in module.modules()) or any(map(_runs_code, tensors))


def _part_draws(part: nn.Module, quiet: set[Any]) -> bool:
    if parametrize.type_before_parametrizations(part) not in quiet:
        return True
    if any(callable(value) and not is_ours(value) for value in vars(part).values()):  # such as a forward of its own
        return True
    return any(not is_ours(hook) for hooks in HOOKS for hook in vars(part)[hooks].values())


def _runs_code(tensor: torch.Tensor) -> bool:
    """Whether it has hooks, or is of somebody's class, whose operations may be anything."""
    return type(tensor) not in PLAIN or any(getattr(tensor, hooks, None) for hooks in TENSOR_HOOKS)


def is_ours(part: object) -> bool:
    """Whether a function, or the class of an object, is this package's, which draws from keys alone."""
    return (getattr(part, "__module__", None) or "").startswith(OURS)


def loss_draws(loss: Callable[..., Any]) -> bool:
    """Return False only when the loss is known not to draw random numbers."""
    if isinstance(loss, nn.Module):
        return any(_part_draws(part, QUIET_CRITERIA) for part in loss.modules())
    return not (is_ours(loss) or any(loss is known for known in QUIET_LOSSES))


@contextmanager
def seeded(key: Key, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of torch, of the device, of NumPy and of Python; restore them afterwards."""
    if _guarded.get():
        seed_all(key, device)
        yield
        return
    with guarded(device):
        seed_all(key, device)
        yield


def seed_all(key: Key, device: torch.device | str = "cpu") -> None:
    """Seed the global generators of torch, of the device, of NumPy and of Python from the key."""
    device, seed = torch.device(device), key.word() & (2**63 - 1)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the generator that the user's code calls
    random.seed(seed)


@contextmanager
def guarded(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore the global generators at the end, whatever happens within; inside another such context do nothing.

    Reading and restoring NumPy's and Python's takes 0.1 ms, seeding them a tenth of that.
    """
    if _guarded.get():
        yield
        return
    token, restore = _guarded.set(True), _restorer(torch.device(device))
    try:
        yield
    finally:
        restore()
        _guarded.reset(token)


def _restorer(device: torch.device) -> Callable[[], None]:
    """A function that gives every global generator its present state."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    on_device = None
    if device.type == "cuda":
        on_device = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        on_device = torch.mps.get_rng_state()

    def restore() -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if on_device is not None and device.type == "cuda":
            torch.cuda.set_rng_state(on_device, device)
        elif on_device is not None:
            torch.mps.set_rng_state(on_device)

    return restore
