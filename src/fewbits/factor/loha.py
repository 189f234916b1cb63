"""Convert a LoHa adapter of PEFT to a plain module with trainable factors, and back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewbits.errors import LocalError
from fewbits.factor.compose import hadamard_of_halves

if TYPE_CHECKING:
    from peft import PeftModel

# Our name, PEFT's name, and whether PEFT's is transposed: (in linear form, in Tucker form).
_MATRICES = {
    "X1": ("hada_w1_a", (False, True)),
    "Y1": ("hada_w1_b", (True, True)),
    "X2": ("hada_w2_a", (False, True)),
    "Y2": ("hada_w2_b", (True, True)),
}
_CORES = {"T1": "hada_t1", "T2": "hada_t2"}
_WHERE = ".parametrizations.weight.0"  # of a LoHaWeight, after its layer's name


class LoHaWeight(nn.Module):
    """Parametrization of a layer's frozen weight W0 by a LoHa adapter.

    ``W = W0 + scale * (X1 Y1^T) o (X2 Y2^T)``, where ``o`` is entrywise. With cores each product ``X Y^T`` becomes
    ``T x1 X x2 Y``, a product along the first and second axis. The weight has shape (O, I, ...). Without cores X is
    (O, R) and Y (I*k*k, R). With cores (PEFT's `use_effective_conv2d`) X is (O, R), Y (I, R) and T (R, R, k, k). PEFT
    starts Y2 at zero, so that W = W0 at first. See Propositions 1 and 3 of FedPara (Hyeon-Woo et al. 2022).
    """

    X1: nn.Parameter
    Y1: nn.Parameter
    X2: nn.Parameter
    Y2: nn.Parameter
    T1: nn.Parameter | None
    T2: nn.Parameter | None

    def __init__(self, factors: dict[str, Tensor], scale: float) -> None:
        """Copy `factors`, by name, T1 and T2 both or neither; `scale` is PEFT's alpha / r."""
        super().__init__()
        self.scale = scale
        for name in (*_MATRICES, *_CORES):
            values = factors.get(name)
            fresh = None if values is None else values.detach().clone(memory_format=torch.contiguous_format)
            self.register_parameter(name, None if fresh is None else nn.Parameter(fresh))

    def forward(self, frozen: Tensor) -> Tensor:
        """Compute the adapted weight, in the shape and type of W0.  # (O, I, ...)"""
        halves = (self.X1, self.Y1, self.T1), (self.X2, self.Y2, self.T2)
        one, two = (tuple(part for part in half if part is not None) for half in halves)
        delta = hadamard_of_halves(one, two).reshape(frozen.shape)
        return torch.add(frozen, delta, alpha=self.scale).to(frozen.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.X1.shape[1]}, scale={self.scale:g}"


def from_loha(peft_model: PeftModel, adapter: str = "default") -> nn.Module:
    """Copy the base model of a PEFT model with its LoHa adapter as trainable factors.

    ``W = W0 + scale * (X1 Y1^T) o (X2 Y2^T)``, where ``o`` is entrywise. Only the factors are trainable, so that a link
    sends only these and the saved float buffers. The outputs equal those of `peft_model` with this adapter alone.

    `peft_model` does not change; `to_loha` writes the trained factors back to it. Both models share the frozen
    weights: do not merge or change them in either. Factors and buffers are copies.

    Args:
        peft_model: a `peft.PeftModel` with LoHa layers of kind Linear, Conv1d or Conv2d.
        adapter: name of the adapter.

    Returns:
        A plain module.

    Raises:
        LocalError: peft is missing, this is no PeftModel, the adapter is no LoHa, or it uses a feature without
            counterpart here: rank_dropout, module_dropout, modules_to_save, merged adapters, quantised weights.

    Example:
        >>> import peft  # doctest: +SKIP
        >>> adapted = peft.get_peft_model(model, peft.LoHaConfig(target_modules="all-linear"))  # doctest: +SKIP
        >>> plain = from_loha(adapted)  # doctest: +SKIP

    References:
        Hyeon-Woo, Ye-Bin and Oh, FedPara, ICLR 2022, Propositions 1 and 3. Difference: gradients are exact, where
        those of peft 0.21 for hada_w1_a and hada_w2_a are wrong with `use_effective_conv2d`.
    """
    base, layers = _adapted(peft_model, adapter, "from_loha")
    for name, layer in layers.items():
        _check_layer(name, layer, adapter)
    shared = {id(p): p for p in base.parameters() if not p.requires_grad}
    model = copy.deepcopy(base, shared)
    model.requires_grad_(False)
    for name, layer in _loha_layers(model).items():
        plain = layer.get_base_layer()
        model.set_submodule(name, plain)
        if name in layers:
            weight = LoHaWeight(_factors(layers[name], adapter), float(layers[name].scaling[adapter]))
            parametrize.register_parametrization(plain, "weight", weight)
    return model


@torch.no_grad()
def to_loha(model: nn.Module, peft_model: PeftModel, adapter: str = "default") -> None:
    """Write the factors of a model from `from_loha` back into the adapter, for save_pretrained.

    Buffers such as BatchNorm's running statistics are written too. PEFT keeps them in the base model and does not save
    them with the adapter.

    Args:
        model: the model that `from_loha` returned, after training.
        peft_model: the PEFT model it came from, or one of the same shape.
        adapter: name of the adapter.

    Raises:
        LocalError: layers, shapes or scales differ; the PEFT model is then unchanged.

    Example:
        >>> to_loha(plain, adapted)  # doctest: +SKIP
        >>> adapted.save_pretrained("adapter")  # doctest: +SKIP
    """
    base, layers = _adapted(peft_model, adapter, "to_loha")
    ours = {name.removesuffix(_WHERE): m for name, m in model.named_modules() if isinstance(m, LoHaWeight)}
    _check_same(ours, layers, adapter)
    saved, theirs = model.state_dict().keys(), dict(base.named_buffers())
    pairs = [(name, buffer, theirs.get(name)) for name, buffer in model.named_buffers() if name in saved]
    for name, weight in ours.items():
        old = _factors(layers[name], adapter)  # views of PEFT's own parameters
        pairs += [(f"{name}.{part}", values, old.get(part)) for part, values in weight.named_parameters()]
    _copy(pairs)


def _check_same(ours: dict[str, LoHaWeight], theirs: dict[str, Any], adapter: str) -> None:
    """Refuse other layers, and other scales."""
    missing, extra = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    if missing or extra:
        raise LocalError(f"to_loha: adapted layers differ; missing {missing}, not in the PEFT model {extra}")
    for name, weight in ours.items():
        scale = theirs[name].scaling[adapter]
        if weight.scale != scale:
            raise LocalError(f"to_loha: {name} has scale {weight.scale} here, but alpha/r = {scale} in the PEFT model")


def _copy(pairs: list[tuple[str, Tensor, Tensor | None]]) -> None:
    """Copy each first tensor into the second, after all shapes were checked."""
    for name, ours, theirs in pairs:
        if theirs is None or theirs.shape != ours.shape:
            found = "nothing of that name" if theirs is None else f"shape {tuple(theirs.shape)}"
            raise LocalError(f"to_loha: {name} has shape {tuple(ours.shape)}; the PEFT model has {found}")
    for _, ours, theirs in pairs:
        assert theirs is not None
        theirs.copy_(ours)


def _factors(layer: Any, adapter: str) -> dict[str, Tensor]:
    """Return views of a LoHa layer's factors by our names, in our layout."""
    tucker = adapter in layer.hada_t1
    factors = {}
    for name, (theirs, transposed) in _MATRICES.items():
        values = getattr(layer, theirs)[adapter].detach()
        factors[name] = values.T if transposed[tucker] else values
    if tucker:
        factors |= {name: getattr(layer, theirs)[adapter].detach() for name, theirs in _CORES.items()}
    return factors


def _adapted(peft_model: PeftModel, adapter: str, caller: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the base model of a PEFT model, and its layers with this adapter by name."""
    try:
        from peft import LoHaConfig, PeftModel
    except ImportError as error:
        raise LocalError(
            f"{caller} needs peft, which cannot be imported ({error}): pip install 'fewbits[peft]'"
        ) from error
    if not isinstance(peft_model, PeftModel):
        raise LocalError(f"{caller}: expected a peft.PeftModel; got {type(peft_model).__name__}")
    config = peft_model.peft_config.get(adapter)
    if not isinstance(config, LoHaConfig):
        found = "no adapter" if config is None else f"a {type(config).__name__}"
        has = ", ".join(peft_model.peft_config)
        raise LocalError(f"{caller}: expected a LoHaConfig as adapter {adapter!r}; found {found}. Adapters: {has}")
    whole = sorted(
        {name for each in peft_model.peft_config.values() for name in getattr(each, "modules_to_save", None) or ()}
    )
    if whole:  # of any adapter: PEFT wraps these modules for all adapters
        raise LocalError(f"{caller}: modules_to_save must be empty; got {whole}")
    base = peft_model.get_base_model()
    layers = _loha_layers(base)
    for name, layer in layers.items():
        if layer.merged:
            raise LocalError(
                f"{caller}: {name} has merged adapters {layer.merged_adapters}; call unmerge_adapter() first"
            )
    return base, {name: layer for name, layer in layers.items() if adapter in layer.hada_w1_a}


def _loha_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.loha.layer import LoHaLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoHaLayer)}


def _check_layer(name: str, layer: Any, adapter: str) -> None:
    for field in ("rank_dropout", "module_dropout"):
        value = getattr(layer, field)[adapter]
        if value:
            raise LocalError(f"from_loha: {field} must be 0; {name} has {value}")
    kind = layer.get_base_layer().weight.dtype
    if not kind.is_floating_point:
        raise LocalError(f"from_loha: {name} must have floating-point weights, not quantised ones; got {kind}")
