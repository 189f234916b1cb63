"""What several methods share: the stack of top-k, dithered levels and rANS."""

from __future__ import annotations

from fewbits.codecs import Chain, Quantize, TopK, chain
from fewbits.coders import Rans


def sparse_stack(fraction: float, bits: int) -> Chain:
    """chain(TopK(fraction), Quantize(bits), Rans()); bits=32 keeps the values in float32."""
    return chain(TopK(fraction)) if bits == 32 else chain(TopK(fraction), Quantize(bits=bits), Rans())
