"""What several methods share: the stack of top-k, dithered levels and rANS, and the check of an option."""

from __future__ import annotations

from fewbits.codecs import Chain, Quantize, TopK, chain
from fewbits.coders import Rans
from fewbits.errors import LocalError


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise LocalError unless the option has one of its choices."""
    if value not in choices:
        raise LocalError(f"{option} must be one of {', '.join(choices)}; got {value!r}")


def sparse_stack(fraction: float, bits: int) -> Chain:
    """chain(TopK(fraction), Quantize(bits), Rans()); bits=32 keeps the values in float32."""
    return chain(TopK(fraction)) if bits == 32 else chain(TopK(fraction), Quantize(bits=bits), Rans())
