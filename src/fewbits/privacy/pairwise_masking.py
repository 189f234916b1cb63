"""PairwiseMasking: updates as integers modulo 2^bits, under masks that come off only in the sum of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.codecs import Lift, Modular, ModularEncoding, Partial, chain, flat
from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError
from fewbits.privacy.secure_sum import ClientEnd, ServerEnd
from fewbits.privacy.secure_sum.key_agreement import check_library
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

MASKED = "masked"  # name of the one tensor that a client sends


@dataclass(frozen=True)
class PairwiseMasking:
    """Hide each client's update under masks that come off only in the sum of a round.

    Client i sends ``round(x_i / step) + p_i + sum_{j > i} s_ij - sum_{j < i} s_ij mod 2^bits``. s_ij is a stream that
    clients i and j share by key agreement, and p_i one of client i alone. When clients drop out, the others reveal
    shares of secrets, so that the server can take the masks off the sum of those who arrived. All values of a client
    travel as one vector of words, and each client has weight 1. When fewer than the threshold arrive, the round is
    void and the model stays.

    Args:
        bits: size of a word.
        largest: largest absolute value of an entry; larger entries are cut.
        clients: expected in a round; a run sets it.
        threshold: share of a round's clients that must arrive, above 1/2.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> masking, rounded = PairwiseMasking(), TreeSpec((("w", Spec((3,))),))
        >>> ends = [masking.client(number, 1, Key(1 << 200).fold(number)) for number in (0, 1)]
        >>> server = masking.server([0, 1], 1)
        >>> for end in ends:
        ...     server.advertised(end.number, end.advertise())
        >>> for end in ends:
        ...     server.shared(end.number, end.share(server.roster()))
        >>> total = MaskedTotal(masking, rounded)
        >>> for end in ends:
        ...     end.open(server.delivery(end.number))
        ...     total.add([Partial(masking.hide(torch.full((3,), 0.25), end, Key(end.number))["masked"])], 1)
        ...     server.arrive(end.number)
        >>> for end in ends:
        ...     server.revealed(end.number, end.reveal(server.survivors()))
        >>> total.unmask(server)
        >>> total.value()["w"].round(decimals=3)
        tensor([0.5000, 0.5000, 0.5000])

    References:
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017, sections 4 and
        7. Difference: without their public key infrastructure and their consistency check; the threshold is above 1/2.
    """

    wire_name: ClassVar[str] = "pairwise_masking"

    bits: int = 32  # bits of a word; larger: smaller steps, more bytes
    largest: float = 1.0  # absolute value of an entry; larger: less is cut, coarser steps
    clients: int = 1  # expected in a round; 1: not said; a run sets it
    threshold: float = 2 / 3  # of the clients must arrive; larger: more colluders are harmless, fewer may be lost

    def __post_init__(self) -> None:
        check_whole("PairwiseMasking: clients", self.clients, 1)
        check_number("PairwiseMasking: threshold", self.threshold, "(0.5, 1]", numpy=True)
        _ = self.encoding(2)  # ModularEncoding checks the arguments

    def encoding(self, clients: int) -> ModularEncoding:
        """The encoding for a sum of so many, with twice the range: n numbers under a mask pass with chance 2^-n."""
        return ModularEncoding(self.bits, self.largest, 2 * clients)

    @property
    def up(self) -> Lift:
        """Codec of the uplink: raw words."""
        return flat(chain(Modular(self.bits)))

    def for_round_size(self, clients: int, most: int, largest: float = 0.0) -> PairwiseMasking:
        """As a run with so many clients in each round uses it, seldom more than `most`, and entries up to `largest`.

        LocalError when they are too few or too many, or the library of the key agreement is missing.
        """
        if clients < 2:
            raise LocalError(f"Method: a sum hides its terms when there are two or more; got rounds of {clients}")
        check_library()
        found = replace(self, clients=clients, largest=max(self.largest, largest))
        _ = found.encoding(most)
        return found

    def spec(self, tree: TreeSpec) -> TreeSpec:
        """Return the Spec of the words that travel in place of `tree`."""
        return TreeSpec(((MASKED, Spec((tree.numel,), "float64")),))

    def client(self, number: int, round: int, key: Key) -> ClientEnd:
        """A client's end of a round's secure sum; `key` is its secret."""
        return ClientEnd(number, round, key, self.threshold)

    def server(self, clients: Sequence[int], round: int) -> ServerEnd:
        """The server's end of a round's secure sum."""
        return ServerEnd(clients, round, self.threshold)

    def hide(self, x: Tensor, end: ClientEnd, private: Key) -> dict[str, Tensor]:
        """Compute the masked words of a client.

        Args:
            x: (n,) the values that leave the client.
            end: of this client, after `open`.
            private: key of this client, for dithered rounding.
        """
        encoding = self.encoding(len(end.members))
        masked = end.mask(encoding.encode(x, private), encoding)
        return {MASKED: torch.from_numpy(masked.astype(np.float64))}  # below 2^48: exact


class MaskedTotal:
    """The sum of the words of a round, with the interface of `TreeTotal`."""

    def __init__(self, masking: PairwiseMasking, spec: TreeSpec) -> None:
        """Start at zero; `spec` describes the values before masking."""
        self._masking, self._spec = masking, spec
        self._sum = np.zeros(spec.numel, np.uint64)
        self._vector: Tensor | None = None  # of the sum without masks
        self.count = 0  # messages in the sum

    def add(self, partials: Sequence[Partial], weight: float) -> None:
        """Add one message; its weight must be 1."""
        if weight != 1:
            raise LocalError(f"masked: clients of a masked sum weigh 1 each; got {weight}")
        (partial,) = partials
        self._sum = self._masking.encoding(2).add(self._sum, partial.values.numpy().astype(np.uint64))
        self.count += 1

    def unmask(self, server: ServerEnd) -> None:
        """Take the masks off; WireError when too few clients arrived, or one of them lied."""
        encoding = self._masking.encoding(max(2, len(server.members)))
        self._vector = encoding.decode(server.unmask(self._sum, encoding), self.count)

    @property
    def whole(self) -> bool:
        """Whether the masks are off."""
        return self._vector is not None

    def value(self) -> dict[str, Tensor]:
        """Return the sum of the values before masking; zeros unless it is whole."""
        total = torch.zeros(self._spec.numel) if self._vector is None else self._vector.float()
        return pieces(total, {name: torch.empty(leaf.shape, device="meta") for name, leaf in self._spec})
