"""LoRA adapters in a state dict: what no tensor of them says, and the plain weights without them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from fewbits.errors import LocalError

KINDS = {"layers": dict, "turned": list, "saved": dict, "prefix": str, "base": str, "unfit": str}


def describe_adapters(model: nn.Module) -> dict[str, Any] | None:
    """What plain weights need beside the state dict, as JSON values; None: the model has no adapter of PEFT.

    Returns:
        "layers": {name: {adapter: scale}}; "turned": those of a weight (I, O); "saved": {name: adapter} of modules that
        train whole; "prefix" of the names; "base" and "config", the plain model's class and its configuration, where
        it has one; "unfit": why such weights cannot be made of the state dict alone, or "".

    Example:
        >>> describe_adapters(nn.Linear(2, 1)) is None
        True
    """
    adapted = {name: layer for name, layer in model.named_modules() if _has_adapters(layer)}
    if not adapted:
        return None
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore
    prefix = next((name for name, part in model.named_modules() if part is inner and name), "")
    config: Any = getattr(inner, "config", None)
    return {
        "layers": {name: {a: layer.scaling[a] for a in _active(layer)} for name, layer in _plain(adapted)},
        "turned": [name for name, layer in adapted.items() if getattr(layer, "fan_in_fan_out", False)],
        "saved": {name: _active(part)[0] for name, part in model.named_modules() if _trains_whole(part)},
        "prefix": prefix and f"{prefix}.",
        "base": f"{type(inner).__module__}:{type(inner).__qualname__}",
        "config": config.to_json_string() if hasattr(config, "to_json_string") else None,
        "config class": type(config).__name__,
        "unfit": next((f"{name} {why}" for name, layer in adapted.items() if (why := _unfit(layer))), tied(model)),
    }


def tied(model: nn.Module) -> str:
    """Which adapted layer shares its weight with another layer, which merging would change, too; "": none does."""
    found: dict[Tensor, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        found.setdefault(p, []).append(name)
    marks = (".base_layer.", ".original_module.")
    shared = (
        (name, names)
        for names in found.values()
        for name in names
        if len(names) > 1 and any(mark in name for mark in marks)
    )
    name, names = next(shared, ("", []))
    return name and f"{name} is the weight of {next(other for other in names if other != name)}, too"


def merge_adapters(model: Any) -> nn.Module:
    """The plain module of a PEFT model, merged in place by PEFT itself.

    Raises:
        LocalError: an adapted weight is tied to another layer's, or PEFT cannot merge an adapter of this kind.
    """
    if tied(model):
        raise LocalError(f"merge: {tied(model)}, and the adapter is for one of them; untie them before adapting")
    try:
        return model.merge_and_unload()
    except (AttributeError, ValueError, TypeError, RuntimeError) as error:
        raise LocalError(f"merge: PEFT cannot merge this adapter: {error}") from error


def without_adapters(state: Mapping[str, Tensor], described: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain model's state dict: ``W = W0 + scale * B A`` in each adapted layer.

    Args:
        state: of the model with adapters.
        described: what `describe_adapters` says of it.

    Raises:
        LocalError: an adapter is of another kind, or state and description do not fit each other.
    """
    if described["unfit"]:
        raise LocalError(
            f"{described['unfit']}, so plain weights need the model itself: in Python, "
            "fb.merge(result.model).state_dict()"
        )
    found = dict(state)
    try:
        for name, scales in described["layers"].items():
            weight = found[f"{name}.base_layer.weight"]
            for adapter, scale in scales.items():
                delta = scale * (_up(found, name, adapter) @ found[f"{name}.lora_A.{adapter}.weight"].float())
                weight = (weight.float() + (delta.T if name in described["turned"] else delta)).to(weight.dtype)
            found[f"{name}.base_layer.weight"] = weight
        return dict(_renamed(found, described))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise LocalError(f"the adapters are not as the file describes them: {error}") from None


def read_description(text: str) -> dict[str, Any]:
    """What a file says of adapters.

    Raises:
        LocalError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        if all(isinstance(found[key], kind) for key, kind in KINDS.items()):
            return found
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise LocalError("the description of its adapters is damaged")


def _renamed(state: Mapping[str, Tensor], described: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of adapted layers by their plain names, without the adapters; others may have any names."""
    for key, x in state.items():
        layer = next((f"{name}." for name in described["layers"] if key.startswith(f"{name}.")), "")
        saved = next((f"{name}." for name in described["saved"] if key.startswith(f"{name}.")), "")
        part, _, rest = key.removeprefix(layer or saved).partition(".")
        if layer and part != "base_layer":
            continue
        if saved:
            adapter, _, rest = rest.partition(".")
            if (part, adapter) != ("modules_to_save", described["saved"][saved[:-1]]):
                continue
        yield (f"{layer or saved}{rest}" if layer or saved else key).removeprefix(described["prefix"]), x


def _up(state: Mapping[str, Tensor], name: str, adapter: str) -> Tensor:
    """B, or U C of a core.  # (O, r)"""
    plain = f"{name}.lora_B.{adapter}.weight"
    if plain in state:
        return state[plain].float()
    core = f"{name}.lora_B.{adapter}.parametrizations.weight"
    return state[f"{core}.0.fixed"].float() @ state[f"{core}.original"].float()


def _has_adapters(part: nn.Module) -> bool:
    """Whether it is a layer of PEFT's; a wrapper passes on the names of the module inside, so it is asked by class."""
    return "base_layer" in part._modules and hasattr(type(part), "active_adapters")


def _trains_whole(part: nn.Module) -> bool:
    return "modules_to_save" in part._modules and hasattr(type(part), "active_adapters") and bool(_active(part))


def _plain(adapted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, layer) for name, layer in adapted.items() if not _unfit(layer))


def _active(layer: Any) -> list[str]:
    active = layer.active_adapters
    return [] if getattr(layer, "disable_adapters", False) else [active] if isinstance(active, str) else list(active)


def _unfit(layer: Any) -> str:
    """Why W0 + scale * B A is not what a layer computes with; "": it is."""
    weight = getattr(layer.base_layer, "weight", None)
    if not getattr(layer, "lora_A", None):
        return "has an adapter that is not LoRA of a matrix"
    if any(vars(layer).get("lora_variant", {}).values()) or any(layer.lora_bias.values()):
        return "has a variant of LoRA, such as DoRA, or a bias of LoRA"
    if any(hasattr(part, "parametrizations") for part in (layer.base_layer, *layer.lora_A.values())):
        return "has a parametrization, such as factors"
    if layer.merged_adapters:
        return "is merged already"
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        return "adapts no matrix of floats"
    return ""
