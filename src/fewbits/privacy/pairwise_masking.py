"""PairwiseMasking: updates as integers modulo 2^bits, under pairwise masks that cancel only in the sum of a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.codecs import Lift, Modular, ModularEncoding, Partial, chain, flat
from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError, WireError
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

MASKED = "masked"  # name of the one tensor that a client sends


@dataclass(frozen=True)
class PairwiseMasking:
    """Hide each client's update under pairwise masks that cancel in the sum of a round.

    Client i sends ``round(x_i / step) + sum_{j > i} s_ij - sum_{j < i} s_ij mod 2^bits``; s_ij is a stream that
    clients i and j share. The sum over all clients of the round decodes to the sum of the rounded updates, and no
    smaller set of messages reveals anything. All values of a client travel as one vector of words, and each client has
    weight 1. If one client of the round is missing, its masks remain: the round is void and the model stays.

    Args:
        bits: size of a word.
        largest: largest absolute value of an entry; larger entries are cut.
        clients: clients in a round; the engine sets it.

    Raises:
        LocalError: the words are too short for so many clients.

    Example:
        >>> masking, pairs = PairwiseMasking(clients=2), Key(1 << 200)
        >>> total = MaskedTotal(masking, TreeSpec((("w", Spec((3,))),)))
        >>> for me in (0, 1):
        ...     words = masking.hide(torch.full((3,), 0.25), me, (0, 1), Key(me), pairs)
        ...     total.add([Partial(words["masked"])], 1)
        >>> total.whole, total.value()["w"].round(decimals=3)
        (True, tensor([0.5000, 0.5000, 0.5000]))

    References:
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017, sections 4 and
        7. Difference: without their recovery of drop-outs and without a key agreement.
    """

    wire_name: ClassVar[str] = "pairwise_masking"

    bits: int = 32  # bits of a word; larger: smaller steps, more bytes
    largest: float = 1.0  # absolute value of an entry; larger: less is cut, coarser steps
    clients: int = 1  # clients in a round; the engine sets it

    def __post_init__(self) -> None:
        check_whole("PairwiseMasking: clients", self.clients, 1)
        _ = self.encoding  # ModularEncoding checks the arguments

    @property
    def encoding(self) -> ModularEncoding:
        """The encoding, with range for twice the clients: n numbers with uncancelled masks pass with chance 2^-n."""
        return ModularEncoding(self.bits, self.largest, 2 * self.clients)

    @property
    def up(self) -> Lift:
        """Codec of the uplink: raw words."""
        return flat(chain(Modular(self.bits)))

    def spec(self, tree: TreeSpec) -> TreeSpec:
        """Return the Spec of the words that travel in place of `tree`."""
        return TreeSpec(((MASKED, Spec((tree.numel,), "float64")),))

    def hide(self, x: Tensor, me: int, clients: Iterable[int], private: Key, pairs: Key) -> dict[str, Tensor]:
        """Compute the masked words of a client.

        Args:
            x: (n,) the values that leave the client.
            me: number of this client.
            clients: numbers of all clients of the round.
            private: key of this client, for dithered rounding.
            pairs: root of the pair keys, folded with both numbers. In a deployment each pair agrees on a new secret
                in each round.
        """
        keys = {c: pairs.fold(min(me, c), max(me, c)) for c in clients if c != me}
        words = self.encoding.encode(x, private)
        masked = self.encoding.add(words, self.encoding.mask(len(words), me, keys))
        return {MASKED: torch.from_numpy(masked.astype(np.float64))}  # below 2^48: exact


class MaskedTotal:
    """The sum of the words of a round, with the interface of `TreeTotal`."""

    def __init__(self, masking: PairwiseMasking, spec: TreeSpec) -> None:
        """Start at zero; `spec` describes the values before masking."""
        self._encoding, self._clients, self._spec = masking.encoding, masking.clients, spec
        self._sum = np.zeros(spec.numel, np.uint64)
        self.count = 0  # messages in the sum

    def add(self, partials: Sequence[Partial], weight: float) -> None:
        """Add one message; its weight must be 1."""
        if weight != 1:
            raise LocalError(f"masked: clients of a masked sum weigh 1 each; got {weight}")
        (partial,) = partials
        self._sum = self._encoding.add(self._sum, partial.values.numpy().astype(np.uint64))
        self.count += 1

    @property
    def whole(self) -> bool:
        """Whether all clients of the round have arrived and the masks cancel, as far as the range shows."""
        try:
            return self.count == self._clients and self._vector() is not None
        except WireError:
            return False

    def value(self) -> dict[str, Tensor]:
        """Return the sum of the values before masking; zeros unless it is whole."""
        total = self._vector().float() if self.whole else torch.zeros(self._spec.numel)
        return pieces(total, {name: torch.empty(leaf.shape, device="meta") for name, leaf in self._spec})

    def _vector(self) -> Tensor:
        return self._encoding.decode(self._sum, self.count)
