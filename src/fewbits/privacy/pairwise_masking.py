"""PairwiseMasking: updates as integers modulo 2^bits, under masks that come off only in the sum of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.codecs import Codec, Lift, Modular, ModularEncoding, Partial, chain, flat
from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError
from fewbits.links.finite import check_finite
from fewbits.privacy import exact_words
from fewbits.privacy.secure_sum import ClientEnd, ServerEnd
from fewbits.privacy.secure_sum.key_agreement import check_library
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec

MASKED = "masked"  # name of what a client sends
BUFFER = "buffer:"  # how the names of buffers begin, and that of their words


@dataclass(frozen=True)
class PairwiseMasking:
    """Hide each client's update under masks that come off only in the sum of a round.

    Client i sends ``round(x_i / step) + p_i + sum_{j > i} s_ij - sum_{j < i} s_ij mod 2^bits``. s_ij is a stream that
    clients i and j share by key agreement, and p_i one of client i alone. When clients drop out, the others reveal
    shares of secrets, so that the server can take the masks off the sum of those who arrived. All parameters of a
    client travel as one vector of words, and each client has weight 1. When fewer than the threshold arrive, the round
    is void and the model stays. Buffers, such as running statistics, travel as longer words (`exact_words`), whose
    range nobody has to choose, under masks like all others.

    Args:
        bits: size of a word.
        largest: largest absolute value of a parameter's change; larger ones are cut.
        clients: expected in a round; a run sets it.
        threshold: share of a round's clients that must arrive, above 1/2.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> masking, spec = PairwiseMasking(), TreeSpec((("w", Spec((3,))),))
        >>> ends = [masking.client(number, 1, Key(1 << 200).fold(number)) for number in (0, 1)]
        >>> server = masking.server([0, 1], 1)
        >>> for end in ends:
        ...     server.advertised(end.number, end.advertise())
        >>> for end in ends:
        ...     server.shared(end.number, end.share(server.roster()))
        >>> total = MaskedTotal(masking, spec)
        >>> for end in ends:
        ...     end.open(server.delivery(end.number))
        ...     words = masking.hide({"w": torch.full((3,), 0.25)}, end, Key(end.number))
        ...     total.add([Partial(words["masked"])], 1)
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
    largest: float = 1.0  # absolute value of a parameter's change; larger: less is cut, coarser steps
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

    @property
    def up_buffers(self) -> Codec:
        """Codec of the uplink of buffers."""
        return chain(Modular(exact_words.BITS))

    def spec(self, tree: TreeSpec) -> TreeSpec:
        """Return the Spec of the words that travel in place of `tree`: those of its buffers, and those of the rest."""
        exact, rest = _numels(tree)
        words = {BUFFER + MASKED: exact_words.DIGITS * exact, MASKED: rest}
        found = {name: n for name, n in words.items() if n} or {MASKED: 0}
        return TreeSpec(tuple((name, Spec((n,), "float64")) for name, n in found.items()))

    def client(self, number: int, round: int, key: Key) -> ClientEnd:
        """A client's end of a round's secure sum; `key` is its secret."""
        return ClientEnd(number, round, key, self.threshold)

    def server(self, clients: Sequence[int], round: int) -> ServerEnd:
        """The server's end of a round's secure sum."""
        return ServerEnd(clients, round, self.threshold)

    def hide(self, tree: Mapping[str, Tensor], end: ClientEnd, private: Key) -> dict[str, Tensor]:
        """Compute the masked words of a client.

        Args:
            tree: the values that leave the client, by wire name.
            end: of this client, after `open`.
            private: key of this client, for dithered rounding.

        Raises:
            LocalError: a value is not finite, or that of a buffer is too large for its words.
        """
        check_finite(tree, "masked")
        _check_buffers(tree)
        clients = len(end.members)
        words = self.encoding(clients).encode(_joined(tree, False), private)
        exact = exact_words.encoding(2 * clients).encode(exact_words.digits(_joined(tree, True)))
        masked = end.mask(np.concatenate([exact, words]), self.masks(clients, len(exact)))
        masked[len(exact) :] &= np.uint64(2**self.bits - 1)  # masks modulo 2^48 are masks modulo 2^bits
        found = {BUFFER + MASKED: masked[: len(exact)], MASKED: masked[len(exact) :]}
        spec = self.spec(TreeSpec(tuple((name, Spec(tuple(x.shape))) for name, x in tree.items())))
        return {name: torch.from_numpy(found[name].astype(np.float64)) for name, _ in spec}  # below 2^48: exact

    def cut(self, tree: Mapping[str, Tensor]) -> int:
        """How many parameters changed by more than `largest`."""
        return int((_joined(tree, False).abs() > self.largest).sum())

    def masks(self, clients: int, exact: int) -> ModularEncoding:
        """The encoding of the masks of a message, `exact` of whose words are those of buffers: the longer words'."""
        return exact_words.encoding(2 * clients) if exact else self.encoding(clients)

    def payload_bytes(self, tree: TreeSpec) -> int:
        """Of a client's words in place of `tree`."""
        exact, rest = _numels(tree)
        return exact_words.DIGITS * exact * exact_words.BITS // 8 + -(-rest * self.bits // 8)


class MaskedTotal:
    """The sum of the words of a round, with the interface of `TreeTotal`."""

    def __init__(self, masking: PairwiseMasking, spec: TreeSpec) -> None:
        """Start at zero; `spec` describes the values before masking."""
        self._masking, self._spec = masking, spec
        self._exact = exact_words.DIGITS * _numels(spec)[0]  # words of buffers, which come first
        self._sum = np.zeros(masking.spec(spec).numel, np.uint64)
        self._vector: Tensor | None = None  # of the sum without masks: buffers, then the rest
        self.count = 0  # messages in the sum

    def add(self, partials: Sequence[Partial], weight: float) -> None:
        """Add one message; its weight must be 1."""
        if weight != 1:
            raise LocalError(f"masked: clients of a masked sum weigh 1 each; got {weight}")
        words = np.concatenate([partial.values.numpy().astype(np.uint64) for partial in partials])
        self._sum = self._masking.masks(2, self._exact).add(self._sum, words)
        self.count += 1

    def unmask(self, server: ServerEnd) -> None:
        """Take the masks off; WireError when too few clients arrived, or one of them lied."""
        masking, exact, clients = self._masking, self._exact, max(2, len(server.members))
        words = server.unmask(self._sum, masking.masks(clients, exact))
        sums = exact_words.encoding(2 * clients).decode(words[:exact], self.count)
        rest = words[exact:] & np.uint64(2**masking.bits - 1)
        self._vector = torch.cat([exact_words.values(sums), masking.encoding(clients).decode(rest, self.count)])

    @property
    def whole(self) -> bool:
        """Whether the masks are off."""
        return self._vector is not None

    def value(self) -> dict[str, Tensor]:
        """Return the sum of the values before masking; zeros unless it is whole."""
        total = torch.zeros(self._spec.numel) if self._vector is None else self._vector.float()
        like = {name: torch.empty(leaf.shape, device="meta") for name, leaf in self._spec}
        found = pieces(total, {name: like[name] for name in sorted(like, key=lambda n: not n.startswith(BUFFER))})
        return {name: found[name] for name in like}


def _joined(tree: Mapping[str, Tensor], buffers: bool) -> Tensor:
    """The values of all buffers, or of all others, end to end, in the memory of the CPU."""
    chosen = [x.detach().reshape(-1).cpu() for name, x in tree.items() if name.startswith(BUFFER) == buffers]
    return torch.cat([torch.zeros(0), *chosen])


def _numels(tree: TreeSpec) -> tuple[int, int]:
    """(numbers of buffers, others)."""
    exact = sum(spec.numel for name, spec in tree if name.startswith(BUFFER))
    return exact, tree.numel - exact


def _check_buffers(tree: Mapping[str, Tensor]) -> None:
    """LocalError when a buffer's change is too large for its words."""
    for name, x in tree.items():
        largest = float(x.detach().abs().max()) if name.startswith(BUFFER) and x.numel() else 0.0
        if largest > exact_words.LARGEST:
            raise LocalError(
                f"{name.removeprefix(BUFFER)} changed by {largest:.4g}, and a masked sum carries changes of buffers up "
                f"to {exact_words.LARGEST:.4g}; scale the inputs"
            )


def cut_sentence(count: float) -> str:
    """What is said of parameters that changed by more than `largest`."""
    return (
        f"masks cut {count:,.0f} changes of parameters to the size of `largest`; raise it, as in "
        "masked+METHOD@largest=10"
    )
