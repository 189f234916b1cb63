"""Seed torch's global generator from a key, for modules that draw from it, such as dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from fewbits.factor.factors import Factors
from fewbits.rng import Key

# Classes known not to draw. Any other class may call random functions of torch in its forward.
QUIET = {
    *(nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softmax, nn.LogSoftmax),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(Factors, parametrize.ParametrizationList, nn.ModuleDict),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
}


def draws(module: nn.Module) -> bool:
    """Return False only when no part of the module can draw random numbers."""
    return any(parametrize.type_before_parametrizations(part) not in QUIET for part in module.modules())


@contextmanager
def seeded(key: Key, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of torch and of the device from the key; restore them afterwards."""
    device, seed = torch.device(device), key.word() & (2**63 - 1)
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
