"""DiLoCo: the change of many local steps, and a server that steps along it with Nesterov's momentum.

Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, arXiv 2311.08105. At 4 bits:
Douillard et al., Streaming DiLoCo with overlapping communication, arXiv 2501.18512.
"""

from __future__ import annotations

from fewbits.codecs import Quantize, Raw, chain, flat
from fewbits.coders import Rans
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def diloco(
    bits: int = 4, bucket: str = "whole", lr: float = 0.7, momentum: float = 0.9, down: str = "delta8"
) -> Method:
    """DiLoCo: dithered 4-bit updates without feedback; the server has Nesterov's momentum.

    Args:
        bits: of each number, 2 to 15, dithered and entropy-coded; 16: fp16; 32: float32 as it is.
        bucket: "whole": one scale, so that smaller layers cost fewer bits; "tensor": one for each, with less noise.
        lr: of the server's step.
        momentum: of the server's step, in [0, 1).
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> diloco().up
        flat(chain(Quantize(bits=4), Rans()))

    Source: Douillard et al., DiLoCo, 2023.
    """
    wide = {16: chain(Raw("fp16")), 32: chain(Raw())}
    up = wide[bits] if bits in wide else chain(Quantize(bits=bits, bucket=bucket), Rans())
    return Method("diloco", flat(up), downlink(down), ServerSGD(lr=lr, momentum=momentum, nesterov=momentum > 0))
