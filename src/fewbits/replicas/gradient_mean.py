"""GradientMean: one rank's ends of the links over which gradients travel in every step; bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isal.isal_zlib import crc32
from torch import Tensor

from fewbits.codecs import Lift
from fewbits.errors import LocalError
from fewbits.links import Ledger, Sender
from fewbits.replicas.count import count_messages
from fewbits.replicas.joined import joined
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.note import noted
from fewbits.replicas.state_parts import OWNER, check_same, count, ends_of, read_ends, read_sums, sums_of, taken
from fewbits.replicas.tensors import digest_of
from fewbits.replicas.terms import DENSE, method_facts
from fewbits.replicas.vectors import end_to_end
from fewbits.rng import Key
from fewbits.spec import TreeSpec
from fewbits.wire.frame import HEADER_BYTES
from fewbits.wire.identity import canonical


def hook_facts(codec: Lift, given: str, warmup: int, key: Key) -> dict[str, str]:
    """What must be equal at all ranks before the first step, as texts by name."""
    return {**method_facts(codec, given), "warmup": str(warmup), "key": key.text()}


class GradientMean:
    """The mean of all ranks' gradients, through a codec: float32 in the first `warmup` steps.

    Args:
        codec: of gradients after the warm-up.
        spec: names and shapes of the gradients, equal at all ranks.
        rank: 0 to size - 1.
        size: how many ranks there are.
        warmup: steps, 0 or more.
        key: all random numbers are drawn from it.
        given: the method as a person wrote it, for messages.
    """

    def __init__(
        self, codec: Lift, spec: TreeSpec, rank: int, size: int, warmup: int, key: Key, given: str = ""
    ) -> None:
        self._given = given
        self.spec, self.rank, self.size, self.warmup, self._key = spec, rank, size, warmup, key
        self.links = [MeanLink(each, spec, size) for each in (DENSE, codec)]
        private = key.fold("rank", rank)
        self.senders = [Sender(link.codec, spec, private.fold(i)) for i, link in enumerate(self.links)]
        self.steps, self._digest = 0, 0
        self.ledger = Ledger()

    @property
    def _phase(self) -> int:
        """0: warm-up; 1: after it."""
        return int(self.steps >= self.warmup)

    @property
    def _common(self) -> Key:
        return self._key.fold("step", self.steps)

    @property
    def note(self) -> int:
        """The step, and a checksum that is equal at all ranks whose shapes and last mean are equal."""
        return noted(self.steps + 1, crc32(f"{self._digest} {canonical(self.spec)}".encode()))

    @property
    def most_bytes(self) -> int:
        """The longest message that may come from another rank."""
        return 8 * self.spec.numel + 4096 * HEADER_BYTES

    def message(self, gradients: Mapping[str, Tensor]) -> memoryview:
        """This rank's frame, which takes over the gradients; LocalError when one is not finite."""
        return joined(self.senders[self._phase].pieces(gradients, common=self._common))

    def take(self, messages: Sequence[bytes | bytearray | memoryview]) -> dict[str, Tensor]:
        """The mean of all ranks' frames; WireError, and no change, when one of them is wrong."""
        phase = self._phase
        found = self.links[phase].mean(list(map(memoryview, messages)), self._common)
        self._digest = digest_of(end_to_end(found))
        self.links[phase].commit()
        self.senders[phase].commit()
        self.steps += 1
        lengths = {rank: len(message) for rank, message in enumerate(messages)}
        count_messages(self.ledger, self.steps, self.rank, lengths, self.senders[phase].sections)
        return found

    def rollback(self) -> None:
        """The message did not reach all ranks."""
        if self.senders[self._phase].pending:
            self.senders[self._phase].rollback()

    def facts(self) -> dict[str, str]:
        """What a state must be of."""
        return {
            **hook_facts(self.links[1].codec, self._given, self.warmup, self._key),
            "gradients": canonical(self.spec),
        }

    def state_dict(self) -> dict[str, object]:
        """All that a resumed run needs to go on: tensors, texts and numbers in dicts and lists."""
        return {
            "facts": self.facts(),
            "rank": self.rank,
            "size": self.size,
            "steps": self.steps,
            "digest": self._digest,
            "sums": sums_of(self.ledger),
            "links": [ends_of(*pair) for pair in zip(self.senders, self.links, strict=True)],
        }

    def load_state_dict(self, state: object) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            LocalError: it is the state of another rank, method or model; the text has both values. Nothing has changed.
        """
        check_same(state, self.facts(), {"rank": self.rank, "size": self.size})
        steps, digest, ledger = count(state, "steps"), count(state, "digest"), read_sums(state)
        links = taken(state, "links", list)
        if len(links) != len(self.links):
            raise LocalError(f"{OWNER}: the state has {len(links)} links; there are {len(self.links)}")
        found = [read_ends(*three) for three in zip(links, self.senders, self.links, strict=True)]
        self.steps, self._digest, self.ledger = steps, digest, ledger
        self.senders, self.links = [sender for sender, _ in found], [link for _, link in found]
