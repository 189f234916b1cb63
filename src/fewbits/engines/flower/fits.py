"""What a method and a model must be for a strategy of Flower's: refused in a sentence before the first round."""

from __future__ import annotations

import re

import torch

from fewbits.engines.flower.layout import Layout
from fewbits.errors import LocalError
from fewbits.factor.coordinates import NAME as COORDINATES
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.learn.unit_vectors import names_of_vectors
from fewbits.links import Downlink
from fewbits.spec import Spec, TreeSpec

SHARED, STAYING = ("X", "Y", "T", "X1", "Y1", "T1"), ("X2", "Y2", "T2")  # last names of factors
VECTOR = re.compile(r"(^|\.)parametrizations\.[^.]+\.\d+\._[uv]$")  # of spectral norm, in torch
FACTORS = "parametrizations"  # part of a factor's name


def check_method(method: Method) -> None:
    """LocalError for a method with parts that a strategy around plain arrays cannot do."""
    if method.space is not None:
        raise LocalError(f"compress: {method.name} moves the model itself; use fewbits.flower.federated")
    if method.aggregator is not None:
        raise LocalError(
            f"compress: the strategy aggregates, and so would {method.aggregator!r} of {method.name}; use "
            "fewbits.flower.federated, or a robust strategy of Flower's around a method without one"
        )
    if method.server_optimizer != ServerSGD():
        raise LocalError(
            f"compress: {method.name} has a server's step of its own, {method.server_optimizer!r}, but here the "
            "strategy takes the step; wrap one that does, such as Flower's FedAdam or FedAvgM, in a method about bytes "
            "alone, or use fewbits.flower.federated"
        )


def check_arrays(method: Method, layout: Layout) -> None:
    """LocalError when arrays are there that the method leaves with the clients, or those that it needs are not."""
    arrays = [entry.name for entry in layout.entries]
    kinds = sorted({entry.dtype for entry in layout.entries})
    if not any("f" in kind for kind in kinds):
        raise LocalError(
            f"compress: none of the {len(arrays)} arrays is of floats (they are {', '.join(kinds) or 'none'}), so a "
            "method has nothing to work on; use the strategy without compress"
        )
    factors = [name for name in arrays if FACTORS in name.split(".")]
    if method.factor is not None and not factors:
        raise LocalError(
            f"{method.name}: none of the arrays is a factor, so the whole model would travel; factor the model in "
            f"server and clients first, as in methods.named({method.name!r}).prepare(model, key)"
        )
    inside = method.inside
    if inside is not None and not any(
        (e.name, e.shape) == (COORDINATES, (inside.numel_inside,)) for e in layout.entries
    ):
        raise LocalError(
            f"{method.name}: clients train the coordinates of a subspace, and no array is {COORDINATES!r} of "
            f"{inside.numel_inside} numbers; build the same model at the server and at all clients, call "
            "method.prepare(model, key), send its state_dict, and call method.start(model, round, client) at a round"
        )
    staying = [name for name in factors if name.rpartition(".")[2] in STAYING]
    if method.factor is not None and method.factor.form == "pfedpara" and staying:
        raise LocalError(
            f"{method.name}: {staying[0]} stays with its client; leave fewbits.factor.private(model) out of "
            "initial_arrays, and give the names to mod(keep=...)"
        )


def check_private(method: Method) -> None:
    """LocalError for a method that names the layers that stay by a torch module, which arrays are not."""
    if method.private:
        raise LocalError(
            f"fewbits.flower: {method.name} leaves layers with the clients ({', '.join(method.private)}), which the "
            "app does on Flower: give their arrays to mod(keep=[patterns]), leave them out of initial_arrays, and take "
            "a method about bytes alone"
        )


def averaged_vectors(layout: Layout, model: FlatModel) -> list[str]:
    """The arrays that are singular vectors by their names, and that nobody computes anew from the mean weight."""
    anew = {id(x) for unit in model.units for x in unit.vectors()}
    tensors = model.module.state_dict(keep_vars=True)
    arrays = [entry.name for entry in layout.entries]
    shown = {name for each in names_of_vectors(arrays) for name in (each.u, each.v)}
    shown |= {name for name in arrays if VECTOR.search(name)}
    return [name for name in arrays if name in shown and id(tensors.get(name)) not in anew]


def lossless(method: Method) -> bool:
    """Whether float32 arrays arrive as they were sent, both ways."""
    spec = Spec.of({"x": torch.zeros(2)})
    assert isinstance(spec, TreeSpec)
    down = Downlink.of(method.down).public
    return method.up.contract(spec).lossless and down.contract(spec).lossless and down.stateless
