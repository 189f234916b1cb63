"""Running statistics as words whose sum is right for values of any common size, without a range to choose.

x -> the integer L = round(x / STEP), written as L = sum_j d_j BASE^j with digits d_j in -BASE/2..BASE/2. Digits of
many clients add up by themselves, since a word is longer than a digit; carries are settled in the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewbits.codecs import ModularEncoding

BITS = 48  # of a word on the wire: a digit, and room for the sum of 65,535 clients and for the check of masks
DIGITS, BASE = 4, 2.0**31
STEP = 2.0**-60  # below the rounding error of a float32 of 1e-11
LARGEST = BASE**DIGITS / 2 * STEP  # 2^63, about 9e18


def encoding(clients: int) -> ModularEncoding:
    """Of digits, as whole numbers: its step is 1."""
    top = (2 ** (BITS - 1) - 1) // clients
    return ModularEncoding(BITS, float(top), clients, "nearest", "refuse")


def digits(x: Tensor) -> Tensor:
    """Digits of values up to LARGEST in size, the lowest digit of all values first.  # (n,) -> (DIGITS * n,) float64

    >>> digits(torch.tensor([1.0, -(2.0**-59)])).int().tolist()
    [0, -2, 536870912, 0, 0, 0, 0, 0]
    """
    levels, found = (x.double() / STEP).round(), []
    for _ in range(DIGITS - 1):  # exact: divisions are by powers of two, and a remainder of doubles is a double
        higher = (levels / BASE).round()
        found.append(levels - higher * BASE)
        levels = higher
    return torch.cat([*found, levels])


def values(sums: Tensor) -> Tensor:
    """The sum of the values behind a sum of digits, rounded to doubles.  # (DIGITS * n,) -> (n,)

    >>> values(digits(torch.tensor([200.0, 1e-3])) + digits(torch.tensor([-1.0, 1.0])))
    tensor([199.0000,   1.0010], dtype=torch.float64)
    """
    *lower, total = sums.reshape(DIGITS, -1)
    for digit in reversed(lower):
        total = total * BASE + digit
    return total * STEP
