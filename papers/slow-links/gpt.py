"""A GPT over characters, of 1.26 million parameters or of a tenth, with weights drawn from a key."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fewbits as fb

CONTEXT, HEAD = 64, 32
SIZES = {"gpt": (160, 4), "small": (64, 2)}  # width, layers


class Block(nn.Module):
    """Attention to the characters before, then two dense layers; normalised before each (GPT-2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_dense = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        b, t, width = x.shape
        q, k, v = (
            y.view(b, t, -1, HEAD).transpose(1, 2) for y in self.qkv(self.before_attention(x)).split(width, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.before_dense(x))))


class GPT(nn.Module):
    """Scores of the next character at every position."""

    def __init__(self, characters: int, key: fb.Key, size: str = "gpt") -> None:
        super().__init__()
        width, layers = SIZES[size]
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    std = 0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "down.weight")) else 0.02
                    p.copy_(std * torch.from_numpy(key.fold(name).normal(p.numel())).view(p.shape))
                elif name.endswith("bias"):
                    p.zero_()

    def forward(self, x: Tensor) -> Tensor:  # (batch, time) -> (batch, time, characters)
        h = self.characters(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.last(h) @ self.characters.weight.T
