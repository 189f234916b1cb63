"""Settings of the whole process: what the user's code changes in one client's turn is not left for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def same_settings() -> Iterator[None]:
    """Restore at the end: gradients on or off, the default dtype, threads, determinism, and NumPy's floating errors.

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
            gradients, dtype, threads, deterministic, only_warns, errors = before
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
            np.seterr(**errors)


def _settings() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        np.geterr(),
    )
