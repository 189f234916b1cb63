"""Tinyshakespeare as windows of characters, and the loss of a model on them."""

from __future__ import annotations

from pathlib import Path

import torch
from gpt import CONTEXT
from torch import Tensor, nn
from torch.nn import functional as F

import fewbits as fb


def load(folder: Path) -> tuple[Tensor, Tensor, int]:
    """Nine tenths of the text, and the windows of the last tenth.  # (n,), (windows, CONTEXT + 1)"""
    text = (folder / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text])
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:].unfold(0, CONTEXT + 1, CONTEXT), len(alphabet)


def windows(text: Tensor, key: fb.Key, count: int) -> Tensor:
    """Windows that begin anywhere.  # (count, CONTEXT + 1)"""
    starts = key.below(len(text) - CONTEXT, count)
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts])


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross entropy of the next characters, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def evaluated(model: nn.Module, test: Tensor) -> float:
    """The mean loss over windows."""
    return sum(float(loss_of(model, part)) * len(part) for part in test.split(64)) / len(test)
