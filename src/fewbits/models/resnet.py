"""A residual network small enough for clients, without batch statistics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

GROUPS = 8  # GroupNorm: batch statistics of clients with few classes do not average well (Hsieh et al. 2020)


class Block(nn.Module):
    """relu(x' + norm(conv(relu(norm(conv(x)))))), x' = x or its 1x1 projection (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h/stride, w/stride)."""
        hidden = relu(self.norm1(self.conv1(x)))
        return relu(self.shortcut(x) + self.norm2(self.conv2(hidden)))


def resnet8(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Stem, three blocks of 16, 32 and 64 channels, global average, linear: 8 layers, 77,850 parameters on CIFAR-10."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, 16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )  # (batch, classes)
