"""Names of the tensors that travel and of those that stay with the client, as in `named_parameters()`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fewbits.errors import LocalError
from fewbits.factor.factors import Factors
from fewbits.factor.layers import factored
from fewbits.factor.patterns import chosen

MARK = "private_names"  # attribute of a module: names of its parameters that stay; deepcopy copies it


def shared(model: nn.Module) -> tuple[str, ...]:
    """List the names of all tensors that travel.

    First come the trainable parameters that are not private, then the saved float buffers of finite values. Names and
    order are those of `named_parameters()` and `named_buffers()`. The factor X1 of layer `conv1` is
    `conv1.parametrizations.weight.0.X1`. Frozen parameters do not travel and are not listed.

    Args:
        model: any module, factored or not.

    Returns:
        Names, in the order in which the tensors are sent.

    Example:
        >>> shared(nn.Linear(3, 2))
        ('weight', 'bias')
    """
    stays = set(private(model))
    parameters = [name for name, p in model.named_parameters() if p.requires_grad]
    return tuple(name for name in (*parameters, *travelling_buffers(model)) if name not in stays)


def private(model: nn.Module) -> tuple[str, ...]:
    """List the names of all tensors that stay with the client.

    These are pFedPara's X2, Y2 and T2, the parameters that `private=` chose, and float buffers. A buffer stays when all
    trainable parameters of its module stay: a private BatchNorm has private statistics. In a module without
    parameters it stays when all parameters of the model stay.

    Args:
        model: any module, factored or not.

    Returns:
        Names: parameters first, then buffers.

    Example:
        >>> from fewbits import pfedpara
        >>> private(pfedpara(nn.Linear(64, 64, bias=False), gamma=0.1))
        ('parametrizations.weight.0.X2', 'parametrizations.weight.0.Y2')

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, section 2; for other layers FedPer (Arivazhagan et al. 2019).
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
        beside = [name for name in trainable if name.rpartition(".")[0] == prefix] or trainable
        return all(name in marked for name in beside)

    return (*stays, *(name for name in travelling_buffers(model) if stays and staying_with(name)))


def travelling_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that travel or stay as parameters do: saved ones of floats, all of them finite.

    A buffer with an infinite or NaN value, such as a causal mask, is a constant: no mean of it means anything.
    """
    saved = model.state_dict(keep_vars=True).keys()
    floats = {name: b for name, b in model.named_buffers() if name in saved and b.is_floating_point()}
    return {name: b for name, b in floats.items() if bool(torch.isfinite(b).all())}


def staying(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Find the parameters that the patterns match, under all their names.

    Raises:
        LocalError: a pattern matches no parameter, or only some of the names of a tied one.
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
    """Mark parameters as private by their names before factoring; all factors of a factored weight then stay."""
    factors: dict[str, Factors] = {place.name: owner for place, owner in factored(model)}
    modules = dict(model.named_modules())
    for name in names:
        prefix, _, attribute = name.rpartition(".")
        if name in factors:
            owner = factors[name]
            owner.private_names = frozenset(factor for factor, _ in owner.named_parameters())
        else:
            module = modules[prefix]
            if isinstance(module, torch.jit.ScriptModule):
                raise LocalError(
                    f"private: {name} is of a TorchScript module, whose copies forget it; give the nn.Module"
                )
            setattr(module, MARK, getattr(module, MARK, frozenset()) | {attribute})
