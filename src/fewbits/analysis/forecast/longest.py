"""The longest frame that a client may send, where the updates do not decide how long a full one is."""

from __future__ import annotations

import torch

from fewbits.analysis.forecast.frames import SIZE, is_fixed
from fewbits.federated.exchange import Exchange
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES


def longest_frame(exchange: Exchange, key: Key) -> int | None:
    """Bytes of it, with its header; None: that depends on the updates.

    A link without a state sends frames of one length. With one, as that of LBGM, a frame in full is the longest: the
    first ones of random updates, of which a later one may refer to an earlier one.
    """
    masks = exchange.method.masking
    if masks is not None:
        return HEADER_BYTES + masks.payload_bytes(exchange.update)
    if not is_fixed(exchange):
        return None
    bits = exchange.up.contract(exchange.sent).payload_bits
    if bits is not None:
        return HEADER_BYTES - (-bits // 8)
    sender, generator, lengths = exchange.sender(key), key.fold("longest").generator(), list[int]()
    for round in (1, 2):
        x = {name: SIZE * torch.randn(leaf.shape, generator=generator) for name, leaf in exchange.sent}
        lengths.append(len(sender.send(x, common=exchange.of_round(round))))
        sender.commit()
    return max(lengths)
