"""The recurrent network of the Shakespeare experiments."""

from __future__ import annotations

from torch import Tensor, nn

EMBEDDING, HIDDEN, LAYERS = 8, 256, 2


class CharLSTM(nn.Module):
    """Embedding of 8, two LSTM layers of 256, one linear layer (McMahan et al. 2017, section 3)."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """`shape` is not used: the network takes text of any length."""
        super().__init__()
        self.embedding = nn.Embedding(classes, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True)
        self.output = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Character numbers (batch, time) to the next one's logits (batch, classes, time), as cross-entropy wants."""
        hidden, _ = self.lstm(self.embedding(x))  # (batch, time, 256)
        return self.output(hidden).transpose(1, 2)
