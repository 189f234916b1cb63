"""DifferentialPrivacy: the Gaussian mechanism on what leaves each client, and the epsilon of the run so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewbits.checks import check_number, check_one_of, check_whole
from fewbits.errors import LocalError
from fewbits.privacy.mechanism import GaussianMechanism, epsilon_of
from fewbits.rng import Key

SHARES = ("local", "central")


@dataclass(frozen=True)
class DifferentialPrivacy:
    """What a client sends is scaled to a 2-norm of at most `clip` and made noisy before any codec sees it.

    "local": every client adds noise of sigma * clip, so each message is private by itself, from the server too.
    "central": each of a round's n clients adds sigma / sqrt(n) of it, so that their sum has sigma * clip; whoever sees
    single messages sees too little noise. Nothing but the sum may depend on them, so the uplink must be lossless.
    Clients weigh 1 each, whatever their number of examples: else one of them moves the sum by more than `clip`.
    """

    wire_name: ClassVar[str] = "differential_privacy"

    clip: float = 1.0  # C, largest 2-norm of what is sent; smaller: less noise in all, more of the update cut off
    noise: float = 1.0  # sigma; larger: more private, slower
    delta: float = 1e-5  # of the (epsilon, delta) that is reported; well below 1 / clients
    share: str = "local"  # or "central"
    clients: int = 1  # n, whose messages are in one sum; a run sets it

    def __post_init__(self) -> None:
        check_number("DifferentialPrivacy: clip", self.clip, "[1e-20, 1e20]", numpy=True)
        check_number("DifferentialPrivacy: noise", self.noise, "[0.01, 1e6]", numpy=True)
        check_number("DifferentialPrivacy: delta", self.delta, "(0, 1)", numpy=True)
        check_one_of("DifferentialPrivacy: share", self.share, SHARES)
        check_whole("DifferentialPrivacy: clients", self.clients, 1, numpy=True)

    def check(self, lossless: bool) -> None:
        """LocalError unless the uplink keeps the promise; says so, too, when the accountant is missing.

        `lossless`: the uplink's codec loses nothing, but for the steps of a modular encoding.
        """
        if self.share == "central" and not lossless:
            raise LocalError(
                "dp: share=central needs an uplink that loses nothing (dense, intrinsic): what a lossy codec makes of "
                "one client's message does not follow from the sum that the noise protects; take share=local"
            )
        epsilon_of(self.delta, {(self.noise, 1.0): 1})

    def apply(self, x: Tensor, key: Key) -> Tensor:
        """x clipped and noisy; `key`: secret, and another one for each x.  # (n,)"""
        mechanism = GaussianMechanism(self.clip, self.noise)
        return (mechanism if self.share == "local" else mechanism.share(self.clients)).apply(x, key)

    def epsilon(self, messages: int, arrived: Iterable[int], everybody: int) -> float:
        """What a run has come to.

        Local: `messages`, the most that any client has sent. Central: `arrived`, the clients in each round's sum, of
        those asked among `everybody`; noise of those that did not arrive is missing.
        """
        if self.share == "local":
            return epsilon_of(self.delta, {(self.noise, 1.0): messages})
        rounds = Counter(count for count in arrived if count)
        spent = {
            (self.noise * math.sqrt(n / self.clients), self.clients / everybody): times for n, times in rounds.items()
        }
        return epsilon_of(self.delta, spent)
