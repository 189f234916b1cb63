"""Lifts: from named tensors to vectors and back."""
