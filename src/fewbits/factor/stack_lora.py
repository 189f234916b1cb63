"""Stack LoRA adapters of several ranks, so that their product is the sum of their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewbits.checks import check_number
from fewbits.errors import LocalError

DOWN, UP = "lora_A", "lora_B"  # of names such as 0.lora_A.weight, (r, I), and 0.lora_B.weight, (O, r)


def stack_lora(adapters: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """One adapter for the clients' adapters of any ranks: ``B A = sum_i w_i B_i A_i``, exactly.

    ``B = [w_1 B_1, ..., w_n B_n]`` and ``A = [A_1; ...; A_n]``. The mean of the factors is another matrix than the mean
    of the products, and needs equal ranks. The rank of the stack is the sum of the clients' ranks, so it costs n times
    as much on the way down. Every client adds the product to its W0, and begins the next round with a new adapter.

    Args:
        adapters: of each client, as `peft.get_peft_model_state_dict` gives it: (r_i, I) and (O, r_i) by name.
        weights: w_i of each client: its share of the examples, times its scale alpha / r_i where scales differ.

    Returns:
        The stacked factors, by the same names.

    Raises:
        LocalError: there is no adapter, a weight is not finite, or names or shapes do not fit each other.

    Example:
        >>> one = {"lora_A.weight": torch.ones(1, 3), "lora_B.weight": torch.ones(2, 1)}
        >>> two = {"lora_A.weight": torch.ones(4, 3), "lora_B.weight": torch.ones(2, 4)}
        >>> stacked = stack_lora([one, two], [0.5, 0.5])
        >>> {name: tuple(x.shape) for name, x in stacked.items()}
        {'lora_A.weight': (5, 3), 'lora_B.weight': (2, 5)}
        >>> stacked["lora_B.weight"] @ stacked["lora_A.weight"]
        tensor([[2.5000, 2.5000, 2.5000],
                [2.5000, 2.5000, 2.5000]])

    Source: Wang et al., FLoRA, NeurIPS 2024 (arXiv 2409.05976).
    """
    if not adapters or len(adapters) != len(weights):
        raise LocalError(f"stack_lora: give one weight for each adapter; got {len(weights)} and {len(adapters)}")
    for weight in weights:
        check_number("stack_lora: a weight", weight, "(-inf, inf)")
    pairs = [(name, UP.join(name.rsplit(DOWN, 1))) for name in adapters[0] if DOWN in name]
    names = {name for pair in pairs for name in pair}
    for client, adapter in enumerate(adapters):
        if not names or set(adapter) != names:
            odd = sorted(set(adapter) ^ names) or ["no lora_A"]
            raise LocalError(f"stack_lora: adapter {client} must have pairs of lora_A and lora_B alone; see {odd[0]}")
        for a, b in pairs:
            _check(client, a, adapter[a], adapter[b], adapters[0][a], adapters[0][b])
    found: dict[str, Tensor] = {}
    for a, b in pairs:
        found[a] = torch.cat([adapter[a] for adapter in adapters])
        found[b] = torch.cat([w * adapter[b] for w, adapter in zip(weights, adapters, strict=True)], 1)
    return found


def _check(client: int, name: str, a: Tensor, b: Tensor, first_a: Tensor, first_b: Tensor) -> None:
    """LocalError unless (r, I) and (O, r) have one rank, and the sides of the first client's."""
    fits = a.dim() == b.dim() == 2 and len(a) == b.shape[1]
    if not fits or a.shape[1:] != first_a.shape[1:] or len(b) != len(first_b):
        raise LocalError(
            f"stack_lora: adapter {client}: {name} is {tuple(a.shape)} with {tuple(b.shape)}, and adapter 0 has "
            f"{tuple(first_a.shape)} with {tuple(first_b.shape)}"
        )
