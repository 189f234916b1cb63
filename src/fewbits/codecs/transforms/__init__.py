"""Transforms: stateless steps, one idea per file."""
