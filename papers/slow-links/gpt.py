"""A GPT of 1.25 million parameters over characters, with weights drawn from a key."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fewbits as fb

CONTEXT, WIDTH, LAYERS, HEADS = 64, 160, 4, 5


class Block(nn.Module):
    """Attention to the characters before, then two dense layers; normalised before each (GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_dense = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, WIDTH)
        b, t, _ = x.shape
        q, k, v = (
            y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(self.before_attention(x)).split(WIDTH, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.before_dense(x))))


class GPT(nn.Module):
    """Scores of the next character at every position."""

    def __init__(self, characters: int, key: fb.Key) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last = nn.LayerNorm(WIDTH)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    std = 0.02 / (2 * LAYERS) ** 0.5 if name.endswith(("out.weight", "down.weight")) else 0.02
                    p.copy_(std * torch.from_numpy(key.fold(name).normal(p.numel())).view(p.shape))
                elif name.endswith("bias"):
                    p.zero_()

    def forward(self, x: Tensor) -> Tensor:  # (batch, time) -> (batch, time, characters)
        h = self.characters(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.last(h) @ self.characters.weight.T
