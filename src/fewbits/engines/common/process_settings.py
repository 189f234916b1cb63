"""Settings of the whole process: what the user's code changes in one client's turn is not left for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as every_module

FULL = "_global_is_full_backward_hook"  # of which kind the backward hooks of all modules are
HOOKS = [x for name, x in vars(every_module).items() if name.startswith("_global_") and name != FULL]


@contextmanager
def same_settings() -> Iterator[None]:
    """Restore at the end gradients on or off, the default dtype, threads, determinism, NumPy's errors, global hooks.

    >>> with same_settings():
    ...     _ = torch.set_grad_enabled(False)
    >>> torch.is_grad_enabled()
    True
    """
    before = _settings()
    try:
        yield
    finally:
        if _settings() != before:
            gradients, dtype, threads, deterministic, only_warns, errors, full, hooks = before
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
            np.seterr(**errors)
            setattr(every_module, FULL, full)
            for table, first in zip(HOOKS, hooks, strict=True):
                table.clear()
                table.update(first)


def _settings() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        np.geterr(),
        getattr(every_module, FULL),
        [dict(table) for table in HOOKS],
    )
