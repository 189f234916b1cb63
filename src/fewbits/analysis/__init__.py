"""Analysis: what a model's gradients look like, and what a method would send."""
