"""PairwiseMasking: clients' updates in a modular encoding, under masks that cancel in the sum of a round alone.

Bonawitz et al., Practical Secure Aggregation, CCS 2017, sections 4 and 7; without their recovery of drop-outs.
"""

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

MASKED = "masked"  # the name of what a client sends


@dataclass(frozen=True)
class PairwiseMasking:
    """A round's sum of words decodes to the sum of what its clients sent, rounded to steps; no message tells more.

    Everything that leaves a client is one vector of words. Clients weigh 1 each. All clients of a round must arrive:
    masks of one that does not stay in the sum, so that the round is void and the model stays.
    """

    wire_name: ClassVar[str] = "pairwise_masking"

    bits: int = 32  # of a word; larger: smaller steps
    largest: float = 1.0  # entry of an update, in size; what is beyond is cut; larger: coarser steps
    clients: int = 1  # in a round; a run sets it

    def __post_init__(self) -> None:
        check_whole("PairwiseMasking: clients", self.clients, 1)
        _ = self.encoding  # says what is wrong

    @property
    def encoding(self) -> ModularEncoding:
        """Wide enough for two rounds' clients: n numbers under masks that do not cancel fit one with chance 2^-n."""
        return ModularEncoding(self.bits, self.largest, 2 * self.clients)

    @property
    def up(self) -> Lift:
        """How words travel."""
        return flat(chain(Modular(self.bits)))

    def spec(self, tree: TreeSpec) -> TreeSpec:
        """Of what travels instead of `tree`."""
        return TreeSpec(((MASKED, Spec((tree.numel,), "float64")),))

    def hide(self, x: Tensor, me: int, clients: Iterable[int], private: Key, pairs: Key) -> dict[str, Tensor]:
        """The masked words of client `me`, one of the round's `clients`.  # x: (n,)

        `private`: this client's own, for rounding; each two clients share `pairs` folded with their numbers. In a
        deployment such a secret comes from a key agreement of the two, anew for each round.
        """
        keys = {c: pairs.fold(min(me, c), max(me, c)) for c in clients if c != me}
        words = self.encoding.encode(x, private)
        masked = self.encoding.add(words, self.encoding.mask(len(words), me, keys))
        return {MASKED: torch.from_numpy(masked.astype(np.float64))}  # below 2^48: exact


class MaskedTotal:
    """The sum of a round's words, with the face of a `TreeTotal`."""

    def __init__(self, masking: PairwiseMasking, spec: TreeSpec) -> None:
        """`spec`: of what the clients hid."""
        self._encoding, self._clients, self._spec = masking.encoding, masking.clients, spec
        self._sum = np.zeros(spec.numel, np.uint64)
        self.count = 0  # messages in the sum

    def add(self, partials: Sequence[Partial], weight: float) -> None:
        """Add one message."""
        if weight != 1:
            raise LocalError(f"masked: clients of a masked sum weigh 1 each; got {weight}")
        (partial,) = partials
        self._sum = self._encoding.add(self._sum, partial.values.numpy().astype(np.uint64))
        self.count += 1

    @property
    def whole(self) -> bool:
        """Whether all of a round's clients are in it, and their masks cancelled as far as can be seen."""
        try:
            return self.count == self._clients and self._vector() is not None
        except WireError:
            return False

    def value(self) -> dict[str, Tensor]:
        """The sum of what was hidden; zeros unless it is whole."""
        total = self._vector().float() if self.whole else torch.zeros(self._spec.numel)
        return pieces(total, {name: torch.empty(leaf.shape, device="meta") for name, leaf in self._spec})

    def _vector(self) -> Tensor:
        return self._encoding.decode(self._sum, self.count)
