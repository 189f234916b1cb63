"""What a model gives: its logits, and the cross-entropy of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from fewbits.errors import LocalError

VOID = -100  # the target that torch's cross-entropy leaves out
OTHER_LOSSES = (
    "for regression give loss=torch.nn.functional.mse_loss, for yes or no "
    "loss=torch.nn.functional.binary_cross_entropy_with_logits"
)


def logits(outputs: object) -> Tensor | None:
    """The tensor itself, `outputs["logits"]` or `outputs.logits`; None: there is no such tensor.

    >>> logits({"logits": torch.ones(2, 3)}).shape
    torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return found if isinstance(found, Tensor) else None


def computed_loss(outputs: object) -> Tensor | None:
    """The loss that the model computed itself, as Hugging Face's models do when they get labels; None: there is none.

    >>> computed_loss({"loss": torch.tensor(2.0), "logits": torch.ones(1, 2)}), computed_loss(torch.ones(1))
    (tensor(2.), None)
    """
    if isinstance(outputs, Tensor):
        return None
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    return found if isinstance(found, Tensor) and found.numel() == 1 else None


def default_loss(outputs: object, targets: Tensor) -> Tensor:
    """The loss that the model computed itself; where there is none, the cross-entropy of its logits."""
    found = computed_loss(outputs)
    return cross_entropy(outputs, targets) if found is None else found


def cross_entropy(outputs: object, targets: Tensor) -> Tensor:
    """Torch's mean cross-entropy of the logits; LocalError where it would be nothing that can be trained."""
    found = outputs if isinstance(outputs, Tensor) else logits(outputs)
    if found is None:
        raise LocalError(
            f"cross-entropy needs a tensor, or an output with logits; the model gives {described(outputs)}; "
            "give loss= that takes it"
        )
    if found.dim() < 2 or found.shape[1] == 1:
        raise LocalError(
            f"cross-entropy of one output is always 0; the model gives {described(found)}, "
            f"the targets are {described(targets)}; {OTHER_LOSSES}"
        )
    return functional.cross_entropy(found, targets)


def check_cross_entropy(outputs: object, targets: Tensor) -> None:
    """Raise LocalError, with a way out, unless cross-entropy of these outputs and targets means what it says."""
    found = logits(outputs)
    if found is None or found.dim() < 2 or found.shape[1] == 1:
        cross_entropy(outputs, targets)  # says so
        return
    what = f"the model gives {described(found)}, the targets are {described(targets)}"
    if targets.is_floating_point():
        if not _probabilities(found, targets):
            raise LocalError(
                f"cross-entropy takes labels (int64), or a probability per class that sum to 1; {what}; "
                f"for labels give y.long(); {OTHER_LOSSES}"
            )
    elif targets.shape != (len(found), *found.shape[2:]):
        raise LocalError(
            f"cross-entropy needs outputs (n, classes, ...) and targets (n, ...); {what}{_hint(found, targets)}"
        )
    else:
        check_labels(found.shape[1], targets)


def described(x: object) -> str:
    """Shape and dtype of a tensor, or of each tensor of a dict; else the type.

    >>> described(torch.ones(2, 3)), described({"a": torch.ones(1)}), described(5)
    ('(2, 3) float32', 'dict of a (1,) float32', 'int')
    """
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
    if isinstance(x, Mapping):
        return f"{type(x).__name__} of " + ", ".join(f"{name} {described(part)}" for name, part in x.items())
    if isinstance(x, tuple | list):
        return f"{'tuple' if isinstance(x, tuple) else 'list'} of {len(x)}"
    return type(x).__name__


def _probabilities(found: Tensor, targets: Tensor) -> bool:
    if found.shape != targets.shape:
        return False
    sums = targets.sum(1)
    return bool((targets >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _hint(found: Tensor, targets: Tensor) -> str:
    if targets.shape == found.shape[:-1]:
        return "; if classes are last, let the model return its output with classes in dimension 1 (movedim(-1, 1))"
    if targets.shape == (len(found), 1):
        return "; give y.squeeze(1)"
    if targets.shape == found.shape:
        return "; for one-hot labels give y.argmax(1), for several labels per example y.float() and " + (
            "loss=torch.nn.functional.binary_cross_entropy_with_logits"
        )
    return ""


def check_labels(classes: int, targets: Tensor) -> None:
    """Raise LocalError unless whole targets are among so many classes, or void.

    >>> check_labels(3, torch.tensor([0, 2, -100]))
    """
    there = targets[targets != VOID]
    if there.numel() and (int(there.min()) < 0 or int(there.max()) >= classes):
        raise LocalError(
            f"labels must be 0..{classes - 1} for {classes} outputs, or {VOID} to be left out; "
            f"got {int(there.min())}..{int(there.max())}"
        )
