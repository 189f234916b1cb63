"""Intrinsic gradient compression: train in random subspaces.

Wang and Melas-Kyriazi, 2021 (arXiv 2112.02656).
"""

from __future__ import annotations

from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.method import Method
from fewbits.methods.dense import wrap_method
from fewbits.methods.downlink import downlink


def intrinsic(
    over: Method | None = None,
    dim: int = 4096,
    mode: str = "static",
    k: int = 4,
    epoch: int = 10,
    basis: str = "fastfood",
    scale: str = "orthonormal",
    seed: int = 7,
) -> Method:
    """Static, time-varying or K-subspace: dim numbers up, by the method `over`; s, and finals of missed epochs, down.

    `epoch`: rounds until the matrices change, in the modes "time-varying" and "k-subspace"; `k`: matrices per epoch.
    """
    space = IntrinsicSpace(dim, mode, k, epoch, basis, scale, seed)
    return wrap_method("intrinsic", over, down=downlink("dense"), space=space)
