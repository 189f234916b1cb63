"""What client and server exchange: the parameters and float buffers that travel, as a dict of named tensors.

Buffers, such as BatchNorm's running statistics, travel with every update as float32, never through the lossy codec.
Entries that are as they were are not sent, up or down: a constant costs a byte or so. Buffers are averaged like
parameters, with server learning rate 1 and no momentum. Integer buffers (`num_batches_tracked`) do not travel. On the
wire a buffer's name begins with "buffer:". An objective's server vectors (SCAFFOLD's control variate) are called
"control:0" and so on. They travel as float32, too, because an error of a lossy codec in them would stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewbits.codecs import Codec, Delta, Flat, Lift, Raw, Route, SinceStart, Threshold, chain
from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError, WireError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.unit_vectors import known_buffers
from fewbits.links import Downlink
from fewbits.links.downlink import Part
from fewbits.links.finite import all_finite
from fewbits.privacy.pairwise_masking import BUFFER as BUFFER
from fewbits.spec import Spec, TreeSpec

CONTROL = "control:"
AS_THEY_ARE = (BUFFER, CONTROL)  # how the names of what no lossy codec may touch begin
WHOLE = chain(Raw())
CHANGED = chain(Threshold(0.0))  # of a difference, what is not zero; where all of it is not, that costs one byte


def as_it_is(name: str) -> bool:
    """Whether no lossy codec, and no subspace, may touch what goes by this wire name."""
    return name.startswith(AS_THEY_ARE)


def values(model: FlatModel, server_vectors: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """Views of all that travels, by wire name; `server_vectors`: the objective's vectors, each  # (S,)."""
    buffers = set(model.buffer_names)
    tree = {(BUFFER + name if name in buffers else name): x for name, x in model.travelling.items()}
    return tree | {f"{CONTROL}{i}": x for i, x in enumerate(server_vectors)}


def unknown_buffers(model: FlatModel) -> list[str]:
    """Wire names of the buffers that travel and are neither a normalisation's statistics nor known unit vectors."""
    known = known_buffers(model.module)
    return [BUFFER + name for name in model.travelling if name in model.buffer_names and name not in known]


def averaged(name: str) -> str:
    """What a run says of an unknown buffer that changed."""
    return (
        f"buffer {name.removeprefix(BUFFER)} changes in training, and its kind is not known: the clients' values are "
        "averaged. Register it with persistent=False if a mean of it has no meaning"
    )


def spec(model: FlatModel, server_vectors: int = 0) -> TreeSpec:
    """The Spec of `values`, with so many vectors of the objective."""
    found = Spec.of(values(model, [model.shared_params] * server_vectors))
    assert isinstance(found, TreeSpec)
    return found


def vector(tree: Mapping[str, Tensor]) -> Tensor:
    """All that travels, end to end, in fresh memory: as `FlatModel.shared`, then the objective's vectors."""
    return torch.cat([torch.zeros(0), *(x.reshape(-1) for x in tree.values())])


def cut(vector: Tensor, model: FlatModel, server_vectors: int = 0) -> dict[str, Tensor]:
    """Undo `vector`: views by wire name."""
    return pieces(vector, values(model, [model.shared_params] * server_vectors))


def controls(vector: Tensor, model: FlatModel, server_vectors: int) -> tuple[Tensor, ...]:
    """The objective's vectors in what `vector` gave.  # each (S,)"""
    return split(vector[len(model.shared) :], len(model.shared_params), server_vectors) if server_vectors else ()


def split(rest: Tensor, size: int, count: int) -> tuple[Tensor, ...]:
    """So many vectors that lie end to end; where nothing travels, each of them is empty.  # each (size,)"""
    return tuple(rest[i * size : (i + 1) * size] for i in range(count))


def downlink(part: Part | Downlink, tree: TreeSpec) -> Downlink:
    """The server's way to its clients, buffers and an objective's vectors taken out of lossy hands.

    Where differences travel, those of buffers do, too; else what is not as at the start of the run.
    """
    return Downlink.of(part).map(
        lambda lift: with_buffers(lift, tree, SinceStart() if lift.stateless else Delta(CHANGED))
    )


def with_buffers(codec: Lift, tree: TreeSpec, buffers: Codec = CHANGED) -> Lift:
    """The codec, with buffers and an objective's vectors taken out of its hands when there are any."""
    there = [start for start in AS_THEY_ARE if any(name.startswith(start) for name, _ in tree)]
    if not there or (isinstance(codec, Route) and codec.rules[0][0].startswith(AS_THEY_ARE)):
        return codec
    rules = [(start + "*", buffers if start == BUFFER else WHOLE) for start in there]
    if isinstance(codec, Flat):
        anything = any(not as_it_is(name) for name, _ in tree)
        return Route((*rules, *([("*", codec.codec)] if anything else [])))
    if isinstance(codec, Route):
        return Route((*rules, *codec.rules))
    raise LocalError(
        f"{codec!r} would send float buffers or control variates through a lossy codec; use flat(...) or route(...)"
    )


def checked(update: object, tree: TreeSpec) -> dict[str, Tensor]:
    """A peer's plain update in the tree's order; a buffer may go by its name in the module.

    Raises:
        WireError: names, shapes, dtypes or values are not those of an update.
    """
    if not isinstance(update, Mapping):
        raise WireError(f"an update must be a dict of {len(tree)} tensors; got {type(update).__name__}")
    found = {name: update.get(name, update.get(name.removeprefix(BUFFER))) for name, _ in tree}
    unknown = [name for name in update if name not in found and f"{BUFFER}{name}" not in found]
    if unknown or len(update) != len(tree):
        raise WireError(f"an update must hold the tensors {list(found)}; got {list(update)[: len(tree) + 1]}")
    for name, leaf in tree:
        _check_leaf(name, found[name], leaf)
    return found


def _check_leaf(name: str, x: object, leaf: Spec) -> None:
    if not isinstance(x, Tensor) or tuple(x.shape) != leaf.shape or x.dtype != leaf.torch_dtype:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise WireError(f"{name} must be {leaf.dtype} of shape {leaf.shape}; got {got}")
    if x.layout != torch.strided or x.is_meta:
        raise WireError(f"{name} must hold all of its numbers; got a tensor of {x.layout} on {x.device}")
    if not all_finite(x):
        raise WireError(f"{name} is not finite")
