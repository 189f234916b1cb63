"""Intrinsic gradient compression: train in random subspaces.

Wang and Melas-Kyriazi, 2021 (arXiv 2112.02656).
"""

from __future__ import annotations

from fewbits.checks import check_one_of
from fewbits.errors import LocalError
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.method import Method
from fewbits.methods.dense import wrap_method
from fewbits.methods.downlink import downlink, downlink_name


def intrinsic(
    over: Method | None = None,
    dim: int = 4096,
    mode: str = "static",
    k: int = 4,
    epoch: int = 10,
    basis: str = "sparse",
    scale: str = "unbiased",
    seed: int = 7,
    local: str = "inside",
) -> Method:
    """Train in random subspaces, theta = theta0 + A s: `dim` numbers travel instead of the model.

    inside: s takes the place of the model's parameters, and clients train it. All of `over` works on s, up and down.
    outside: clients train the model and send A^T of its update, as in the paper; the server sends s, and the finals of
    epochs that a client missed.

    Args:
        over: the method by which s, or A^T of the update, travels; None: dense.
        dim: numbers of a subspace; larger: more bytes, less is lost.
        mode: "static", one subspace; "time-varying", another one in each epoch; "k-subspace", one of k for each client
            and round; "growing" (inside only), one more in each epoch.
        k: subspaces: in all (inside), or in each epoch of k-subspace (outside).
        epoch: rounds until other subspaces train; static has one epoch.
        basis: "fastfood", "sparse", "hadamard" or "gaussian".
        scale: "orthonormal", or "unbiased", whose steps are D/dim times as long.
        seed: of the matrices; everybody's.
        local: "inside" or "outside".

    Raises:
        LocalError: an option is out of range; or outside, "growing" or a downlink other than dense.

    Example:
        >>> intrinsic(dim=512).inside.numel
        512

    Source: Wang and Melas-Kyriazi, 2021.
    """
    space = IntrinsicSpace(dim, mode, k, epoch, basis, scale, seed)
    check_one_of("intrinsic: local", local, ("inside", "outside"))
    if local == "inside":
        return wrap_method("intrinsic", over, inside=space)
    if mode == "growing":
        raise LocalError("intrinsic: mode 'growing' is for local='inside', where clients train s itself")
    if over is not None and over.down != downlink("dense"):
        given = downlink_name(over.down)
        raise LocalError(f"intrinsic: with local='outside' s travels down as it is: set down=dense; got {given}")
    return wrap_method("intrinsic", over, space=space)
