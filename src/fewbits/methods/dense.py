"""Dense updates.

FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
FedPAQ: Reisizadeh et al., AISTATS 2020.
"""

from __future__ import annotations

from dataclasses import replace

from fewbits.codecs import Quantize, Raw, chain, flat
from fewbits.coders import Fixed
from fewbits.learn.method import Method
from fewbits.learn.optimizers import ServerSGD
from fewbits.methods.downlink import downlink


def dense(down: str = "dense", momentum: float = 0.0) -> Method:
    """FedAvg: every number in float32, both ways.

    Args:
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> dense(down="fp16").down
        flat(chain(Raw('fp16')))

    Source: McMahan et al., FedAvg, AISTATS 2017.
    """
    return Method("dense", flat(chain(Raw())), downlink(down), ServerSGD(momentum=momentum))


def fedpaq(bits: int = 8, down: str = "dense", momentum: float = 0.0) -> Method:
    """FedPAQ: quantised updates and a dense downlink.

    Args:
        bits: of each number, 2 to 15, dithered; 16 sends fp16.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> fedpaq(bits=4).up
        flat(chain(Quantize(bits=4)))

    Source: Reisizadeh et al., FedPAQ, AISTATS 2020.
    """
    up = chain(Raw("fp16")) if bits == 16 else chain(Quantize(bits=bits), Fixed())
    return Method("fedpaq", flat(up), downlink(down), ServerSGD(momentum=momentum))


def wrap_method(name: str, over: Method | None, **changes: object) -> Method:
    """The method `over` (default: dense) with fields changed, as `name+over`; over dense, as `name` alone."""
    over = over or dense()
    return replace(over, name=name if over.name == "dense" else f"{name}+{over.name}", **changes)  # pyright: ignore
