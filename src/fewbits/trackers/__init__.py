"""Observers of a run: TensorBoard, Weights & Biases, MLflow, or one of your own."""

from fewbits.trackers.named import observers
from fewbits.trackers.observer import Observer
from fewbits.trackers.watching import watching

__all__ = ["Observer", "observers", "watching"]
