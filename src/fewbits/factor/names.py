"""What travels and what stays: every tensor of a model by the name that `named_parameters()` gives it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fewbits.errors import LocalError
from fewbits.factor.factors import Factors
from fewbits.factor.layers import factored
from fewbits.factor.patterns import chosen

MARK = "private_names"  # attribute of a module: the names of its own parameters that stay; copied with the module


def shared(model: nn.Module) -> tuple[str, ...]:
    """The names of all that travels: trainable parameters that are not private, then saved float buffers.

    The names and their order are those of `named_parameters()` and `named_buffers()`, hence of a state_dict: the
    factor X1 of layer `conv1` is `conv1.parametrizations.weight.0.X1`. Frozen parameters neither travel nor are listed.

    >>> shared(nn.Linear(3, 2))
    ('weight', 'bias')
    """
    stays = set(private(model))
    parameters = [name for name, p in model.named_parameters() if p.requires_grad]
    return tuple(name for name in (*parameters, *_buffers(model)) if name not in stays)


def private(model: nn.Module) -> tuple[str, ...]:
    """The names of what stays with its client: pFedPara's X2, Y2, T2, and what was chosen; then float buffers.

    A buffer stays when all trainable parameters of its module do (a private BatchNorm keeps its running statistics); in
    a module without any, when those of the whole model do.
    """
    marked = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in getattr(module, MARK, ())
    }
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    stays = [name for name in trainable if name in marked]

    def staying_with(buffer: str) -> bool:
        prefix = buffer.rpartition(".")[0]
        own = [name for name in trainable if name.rpartition(".")[0] == prefix] or trainable
        return all(name in marked for name in own)

    return (*stays, *(name for name in _buffers(model) if stays and staying_with(name)))


def _buffers(model: nn.Module) -> list[str]:
    saved = model.state_dict(keep_vars=True).keys()
    return [name for name, b in model.named_buffers() if name in saved and b.is_floating_point()]


def staying(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    """The parameters of a model, under all their names, that the patterns match.

    LocalError when a pattern matches none, or only some of the names of a tied one.
    """
    aliases: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(tensor), []).append(name)
    stays = chosen([name for names in aliases.values() for name in names], patterns, "private")
    for names in aliases.values():
        inside = [name for name in names if name in stays]
        if inside and len(inside) < len(names):
            other = next(name for name in names if name not in stays)
            raise LocalError(
                f"private: {inside[0]} is tied to {other}, which travels; a tied tensor travels or stays as a whole"
            )
    return stays


def mark_private(model: nn.Module, names: Iterable[str]) -> None:
    """Mark parameters as staying, by the names they had before factoring: of a factored weight, all factors stay."""
    factors: dict[str, Factors] = {place.name: owner for place, owner in factored(model)}
    for name in names:
        prefix, _, own = name.rpartition(".")
        if name in factors:
            owner = factors[name]
            owner.private_names = frozenset(own for own, _ in owner.named_parameters())
        else:
            module = model.get_submodule(prefix)
            setattr(module, MARK, getattr(module, MARK, frozenset()) | {own})
