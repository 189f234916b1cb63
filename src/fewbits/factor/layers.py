"""Find the weights of a model that can be factored, with a reason for each that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy
from torch.nn.utils import parametrize

from fewbits.errors import LocalError
from fewbits.factor.factors import Factors
from fewbits.factor.rank import Grid

# Attributes that factoring sets on a layer; deepcopy copies them and merge removes them.
ORDER = "plain_order"  # parameter names in the order of the plain layer: a merged state_dict needs it
DENSE = "dense_reasons"  # {weight: why it stayed dense}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Place:
    """A module attribute that holds a weight; a tied weight has several."""

    module_name: str
    module: nn.Module
    attribute: str

    @property
    def name(self) -> str:
        """Name in the plain model's state_dict, such as `features.0.weight`."""
        return f"{self.module_name}.{self.attribute}" if self.module_name else self.attribute


@dataclass(frozen=True)
class Weight:
    """A weight of two dimensions or more."""

    places: tuple[Place, ...]
    tensor: Tensor
    reason: str = ""  # why it cannot be factored; empty: it can
    grid: Grid | None = None
    variance: float = 0.0  # variance of a fresh layer of this kind
    padding: int | None = None  # row that stays zero

    @property
    def name(self) -> str:
        """Name of its first place."""
        return self.places[0].name


def weights(model: nn.Module, reshaped: bool) -> list[Weight]:
    """List every weight that is not factored yet, in declaration order; a tied weight once.

    `reshaped`: treat kernels as matrices (rows, columns*taps) instead of in Tucker form.
    """
    found: dict[int, list[Place]] = {}
    tensors: dict[int, Tensor] = {}
    for place, tensor in _tensors(model):
        found.setdefault(id(tensor), []).append(place)
        tensors[id(tensor)] = tensor
    return [_weight(tuple(places), tensors[number], reshaped) for number, places in found.items()]


def factored(model: nn.Module) -> Iterator[tuple[Place, Factors]]:
    """Yield every place whose weight is composed of factors."""
    for name, module in model.named_modules():
        for attribute, chain in chains(module).items():
            owner = chain[0]
            if isinstance(owner, Factors):
                yield Place(name, module, attribute), owner


def chains(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the parametrizations of a module's direct tensors."""
    return dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue, reportArgumentType]


def _tensors(model: nn.Module) -> Iterator[tuple[Place, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList | Factors):
            continue
        for attribute, chain in chains(module).items():
            original = getattr(chain, "original", getattr(chain, "original0", None))
            if not isinstance(chain[0], Factors) and original is not None and original.dim() > 1:
                yield Place(name, module, attribute), original
        for attribute, tensor in module._parameters.items():
            if tensor is None:
                continue
            place = Place(name, module, attribute)
            if is_lazy(tensor) or isinstance(tensor, UninitializedParameter):
                raise LocalError(f"{place.name}: it has no shape yet; run one forward of the model before factoring it")
            if tensor.dim() > 1:
                yield place, tensor


def _weight(places: tuple[Place, ...], tensor: Tensor, reshaped: bool) -> Weight:
    for place in places:
        reason = _refusal(place, tensor)
        if reason:
            tied = f"tied to {place.name}: " if place is not places[0] else ""
            return Weight(places, tensor, tied + reason)
    module = places[0].module
    padding = next((p.module.padding_idx for p in places if isinstance(p.module, nn.Embedding)), None)
    return Weight(places, tensor, "", _grid(module, tensor, reshaped), _variance(module, tensor), padding)


def _refusal(place: Place, tensor: Tensor) -> str:
    module = place.module
    if not _is_known(module, place.attribute):
        return f"no factored form for {place.attribute} of {type(module).__name__}"
    other = next((chain[0] for chain in chains(module).values() if not isinstance(chain[0], Factors)), None)
    if other is not None:
        return f"the layer has another parametrization, {type(other).__name__.lstrip('_')}"
    if not tensor.is_floating_point():
        return f"{tensor.dtype} is not a float type"
    if not tensor.requires_grad:
        return "frozen"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm writes into the weight"
    if isinstance(module, nn.Embedding) and module.sparse:
        return "sparse gradients"
    if isinstance(module, CONVOLUTIONS) and tensor.shape[1] == 1 and module.groups > 1:
        return "one input channel per group"
    return ""


def _is_known(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, RECURRENT):
        return attribute.startswith("weight_")
    return isinstance(module, (nn.Linear, nn.Embedding, *CONVOLUTIONS)) and attribute == "weight"


def _grid(module: nn.Module, tensor: Tensor, reshaped: bool) -> Grid:
    """Describe the shape for the factors; a kernel of one tap is a matrix, because a core would only add numbers."""
    rows, columns, taps = tensor.shape[0], tensor.shape[1], tensor[0, 0].numel()
    if taps == 1 or not isinstance(module, CONVOLUTIONS):
        return Grid(rows, columns)
    return Grid(rows, columns * taps) if reshaped else Grid(rows, columns, taps, tucker=True)


def _variance(module: nn.Module, tensor: Tensor) -> float:
    """Return 2/fan_in (He et al. 2015); 1 for embeddings, as in torch; 1/hidden for recurrent layers.

    Torch draws recurrent weights with 1/(3 hidden). Factors of such small weights move slowly: with three times that
    variance a character model trains faster and allows larger steps.
    """
    if isinstance(module, nn.Embedding):
        return 1.0
    if isinstance(module, RECURRENT):
        return 1 / module.hidden_size
    return 2 / tensor[0].numel()
