"""DifferentialPrivacy: the Gaussian mechanism of a run, and the epsilon that the run has spent."""

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
    """Clip every message of a client to a 2-norm and add Gaussian noise, before any codec sees it.

    ``x * min(1, clip/|x|) + N(0, (sigma clip)^2 I)``. "local": each client adds all of the noise, so that each message
    is private, also against the server. "central": each of the n clients of a round adds ``sigma clip / sqrt(n)``, so
    that their sum has the full noise. A single message then has too little noise: only sums may depend on messages,
    and the uplink must be lossless. Each client has weight 1; otherwise one client could move the sum by more than
    `clip`.

    Args:
        clip: C, the largest 2-norm of a message.
        noise: sigma, the noise per entry in units of C.
        delta: of the reported (epsilon, delta); well below 1 / clients.
        share: "local" or "central".
        clients: n, the number of messages in one sum; the engine sets it.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> import torch
        >>> DifferentialPrivacy(clip=1.0, noise=0.01).apply(torch.ones(3), Key(1 << 200)).shape
        torch.Size([3])

    References:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, appendix A; for models, McMahan et
        al., Learning Differentially Private Recurrent Language Models, ICLR 2018. Differences: `GaussianMechanism`.
    """

    wire_name: ClassVar[str] = "differential_privacy"

    clip: float = 1.0  # C, 2-norm; smaller: less noise in total, more of the update is cut
    noise: float = 1.0  # sigma, in units of C; larger: more private, slower training
    delta: float = 1e-5  # probability; smaller: larger epsilon; well below 1 / clients
    share: str = "local"  # or "central"
    clients: int = 0  # n, messages in one sum; 0: not said; a run sets it

    def __post_init__(self) -> None:
        check_number("DifferentialPrivacy: clip", self.clip, "[1e-20, 1e20]", numpy=True)
        check_number("DifferentialPrivacy: noise", self.noise, "[0.01, 1e6]", numpy=True)
        check_number("DifferentialPrivacy: delta", self.delta, "(0, 1)", numpy=True)
        check_one_of("DifferentialPrivacy: share", self.share, SHARES)
        check_whole("DifferentialPrivacy: clients", self.clients, 0, numpy=True)

    def check(self, lossless: bool) -> None:
        """Raise LocalError when the uplink breaks the guarantee, or when the accountant is missing.

        Args:
            lossless: whether the codec of the uplink is lossless, up to rounding by `ModularEncoding`.
        """
        if self.share == "central" and not self.clients:
            raise LocalError(
                "dp: share=central must know how many clients each round has; take method.for_round_size(clients), the "
                "same at the server and at the clients"
            )
        if self.share == "central" and not lossless:
            raise LocalError(
                "dp: share=central needs an uplink that loses nothing (dense, intrinsic): what a lossy codec makes of "
                "one client's message does not follow from the sum that the noise protects; take share=local"
            )
        epsilon_of(self.delta, {(self.noise, 1.0): 1})

    def apply(self, x: Tensor, key: Key) -> Tensor:
        """Clip x and add noise; `key` must be secret and new for each x.  # (n,)"""
        mechanism = GaussianMechanism(self.clip, self.noise)
        return (mechanism if self.share == "local" else mechanism.share(self.clients)).apply(x, key)

    def epsilon(self, messages: int, arrived: Iterable[int], everybody: int) -> float:
        """Compute the epsilon that a run has spent.

        Args:
            messages: most messages that one client has sent; used for "local".
            arrived: number of clients in each round's sum; used for "central". The noise of missing clients is absent.
            everybody: number of all clients.
        """
        if self.share == "local":
            return epsilon_of(self.delta, {(self.noise, 1.0): messages})
        rounds = Counter(count for count in arrived if count)
        spent = {
            (self.noise * math.sqrt(n / self.clients), self.clients / everybody): times for n, times in rounds.items()
        }
        return epsilon_of(self.delta, spent)
