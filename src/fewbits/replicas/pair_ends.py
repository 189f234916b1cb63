"""PairEnds: what one rank knows of each partner's vector, and each partner of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from fewbits.codecs import Lift
from fewbits.errors import LocalError, WireError
from fewbits.links import Receiver, Sender
from fewbits.replicas.state_parts import OWNER, bytes_of, taken, tensor_of
from fewbits.rng import Key
from fewbits.spec import TreeSpec


class PairEnds:
    """This rank's ends of the links to and from every other rank; a link is made at the first contact.

    Both ends begin with the values of the start, which all ranks have. A link keeps one vector at each end.

    Args:
        codec: of differences; `partners.differences` makes it.
        spec: names and shapes of the values.
        key: private randomness of this rank.
    """

    def __init__(self, codec: Lift, spec: TreeSpec, key: Key) -> None:
        self._codec, self._spec, self._key = codec, spec, key
        self.senders: dict[int, Sender] = {}  # by peer
        self.receivers: dict[int, Receiver] = {}

    def meet(self, peer: int, start: dict[str, Tensor]) -> Sender:
        """The link to a peer; a new one begins with `start` at both ends."""
        if peer not in self.senders:
            sender = Sender(self._codec, self._spec, self._key.fold("to", peer))
            sender.start(start)
            receiver = Receiver(self._codec, self._spec)
            receiver.state = self._codec.start(start, self._spec)
            self.senders[peer], self.receivers[peer] = sender, receiver
        return self.senders[peer]

    def rollback(self) -> None:
        """No frame that is pending reached its receiver."""
        for sender in self.senders.values():
            if sender.pending:
                sender.rollback()

    def dump(self) -> dict[str, dict[str, Tensor]]:
        """The ends by peer, as tensors for a state."""
        return {
            str(peer): {"sender": tensor_of(sender.dump()), "receiver": tensor_of(self.receivers[peer].dump())}
            for peer, sender in self.senders.items()
        }

    def read(self, state: object, size: int, rank: int) -> PairEnds:
        """New ends from what `dump` gave under "peers"; LocalError when it does not fit."""
        found, peers = copy.copy(self), taken(state, "peers", dict)
        found.senders, found.receivers = {}, {}
        known = {str(peer): peer for peer in range(size) if peer != rank}
        for name, ends in peers.items():
            if name not in known:
                raise LocalError(f"{OWNER}: a peer is one of {', '.join(known)}; got {str(name)[:40]!r}")
            sender = Sender(self._codec, self._spec, self._key.fold("to", known[name]))
            receiver = Receiver(self._codec, self._spec)
            try:
                sender.load(bytes_of(ends.get("sender") if isinstance(ends, Mapping) else None))
                receiver.load(bytes_of(ends.get("receiver") if isinstance(ends, Mapping) else None))
            except WireError as error:
                raise LocalError(f"{OWNER}: {error}") from None
            found.senders[known[name]], found.receivers[known[name]] = sender, receiver
        return found
