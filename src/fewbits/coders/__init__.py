"""Coders: lossless, between integers or words and bits.

A coder stands at the end of a chain. `Rans` fits the frequencies of levels, `Golomb` fits few levels around zero,
`Elias` fits positions, `Fixed` is the plain width, `Zstd` looks for repeats, and `Auto` takes the shortest of several
for each message. The functions are the same codes for whoever writes the side information of a transform.
"""

from fewbits.coders.auto import Auto
from fewbits.coders.base import Coder
from fewbits.coders.elias import Elias, delta_bits, gamma_bits, read_delta, read_gamma, write_delta, write_gamma
from fewbits.coders.fixed import Fixed
from fewbits.coders.golomb import Golomb, predicted_bits
from fewbits.coders.rans import Rans
from fewbits.coders.support import read_support, write_support
from fewbits.coders.zstd import Zstd

__all__ = [
    "Auto",
    "Coder",
    "Elias",
    "Fixed",
    "Golomb",
    "Rans",
    "Zstd",
    "delta_bits",
    "gamma_bits",
    "predicted_bits",
    "read_delta",
    "read_gamma",
    "read_support",
    "write_delta",
    "write_gamma",
    "write_support",
]
