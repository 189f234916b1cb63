"""Ranks of torch.distributed as forked processes over loopback, and small models that they train alike."""

from __future__ import annotations

import copy
from datetime import timedelta
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import nn

from fewbits.engines.distributed import ProcessInfo
from fewbits.rng import Key

KEY = Key(11)


def join(process: ProcessInfo, timeout: float = 20.0) -> None:
    """Initialise torch.distributed as this rank, over gloo."""
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{process.address}",
        rank=process.rank,
        world_size=process.size,
        timeout=timedelta(seconds=timeout),
    )


def net(seed: int = 0) -> nn.Module:
    """A model with BatchNorm, the same for the same seed."""
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=KEY.fold("net", seed, name).generator()))
    return model


def batch(rank: int, step: int) -> torch.Tensor:
    """The batch of this rank and step.  # (8, 12)"""
    return torch.randn(8, 12, generator=KEY.fold("batch", rank, step).generator())


def inner_step(model: nn.Module, rank: int, step: int, lr: float = 0.01) -> None:
    """A step of SGD by hand."""
    model.zero_grad()
    model(batch(rank, step)).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=lr)


def digest(model: nn.Module) -> str:
    """A digest of every bit of parameters and buffers."""
    found = blake2b(digest_size=8)
    for x in copy.deepcopy(model.state_dict()).values():
        found.update(x.contiguous().numpy().tobytes())
    return found.hexdigest()
