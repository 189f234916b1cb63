"""DifferentialPrivacy: the Gaussian mechanism of a run, and which part of the noise each party adds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number, check_one_of, check_whole
from fewbits.errors import LocalError
from fewbits.privacy.accountant import check_accountant
from fewbits.privacy.mechanism import GaussianMechanism
from fewbits.rng import Key

SHARES = ("local", "central")


@dataclass(frozen=True)
class DifferentialPrivacy:
    """Clip every message of a client to a 2-norm and add Gaussian noise, before any codec sees it.

    ``x * min(1, clip/|x|) + N(0, (sigma clip)^2 I)``. "local": each client adds all of the noise, so that each message
    is private, also against the server. "central": each of the m clients asked in a round adds ``sigma clip / sqrt(m)``
    and the server adds the part of those who did not arrive. So every sum has the full noise, whatever m is, also when
    nobody was drawn. Clients are drawn by independent coins, and the sum is divided by the expected number of clients.
    A single message has too little noise: only sums may depend on messages, and the uplink must be lossless. Each
    client has weight 1; otherwise one client could move the sum by more than `clip`.

    Args:
        clip: C, the largest 2-norm of a message.
        noise: sigma, the noise per entry in units of C.
        delta: of the reported (epsilon, delta); well below 1 / clients.
        share: "local" or "central".
        clients: n, the expected number of messages in one sum; the engine sets it.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> DifferentialPrivacy(clip=1.0, noise=0.01).apply(torch.ones(3), Key(1 << 200)).shape
        torch.Size([3])

    References:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, appendix A; for models, McMahan et
        al., Learning Differentially Private Recurrent Language Models, ICLR 2018. Differences: `GaussianMechanism`, and
        in "central" the clients add the noise, as far as they arrive.
    """

    wire_name: ClassVar[str] = "differential_privacy"

    clip: float = 1.0  # C, 2-norm; smaller: less noise in total, more of the update is cut
    noise: float = 1.0  # sigma, in units of C; larger: more private, slower training
    delta: float = 1e-5  # probability; smaller: larger epsilon; well below 1 / clients
    share: str = "local"  # or "central"
    clients: int = 0  # n, messages expected in one sum; 0: not said; a run sets it

    def __post_init__(self) -> None:
        check_number("DifferentialPrivacy: clip", self.clip, "[1e-20, 1e20]", numpy=True)
        check_number("DifferentialPrivacy: noise", self.noise, "[0.01, 1e6]", numpy=True)
        check_number("DifferentialPrivacy: delta", self.delta, "(0, 1)", numpy=True)
        check_one_of("DifferentialPrivacy: share", self.share, SHARES)
        check_whole("DifferentialPrivacy: clients", self.clients, 0, numpy=True)

    @property
    def central(self) -> bool:
        """Whether the noise protects sums alone; clients are then drawn by their own coins."""
        return self.share == "central"

    @property
    def largest(self) -> float:
        """Largest entry of a message under masks, whose rounds have two members or more; masks must cut nothing."""
        return GaussianMechanism(self.clip, self.noise).share(2 if self.central else 1).largest

    def check(self, lossless: bool) -> None:
        """Raise LocalError when the uplink breaks the guarantee, or when the accountant is missing.

        Args:
            lossless: whether the codec of the uplink is lossless, up to rounding by `ModularEncoding`.
        """
        if not self.central:
            return
        if not self.clients:
            raise LocalError(
                "dp: share=central must know how many clients each round expects; take method.for_round_size(clients), "
                "the same at the server and at the clients"
            )
        if not lossless:
            raise LocalError(
                "dp: share=central needs an uplink that loses nothing (dense, intrinsic): what a lossy codec makes of "
                "one client's message does not follow from the sum that the noise protects; take share=local"
            )
        check_accountant()

    def apply(self, x: Tensor, key: Key, asked: int = 1) -> Tensor:
        """Clip x and add this client's noise.

        Args:
            x: (n,) all values that leave the client.
            key: secret, and new for each x.
            asked: m, the clients asked in this round; used for "central".
        """
        mechanism = GaussianMechanism(self.clip, self.noise)
        return (mechanism.share(asked) if self.central else mechanism).apply(x, key)

    def missing(self, numel: int, asked: int, arrived: int, key: Key) -> Tensor | None:
        """Draw the noise that a sum lacks: that of clients who did not arrive; all of it when nobody was asked.

        Args:
            numel: length of the sum.
            asked: clients that were to add their part each.
            arrived: clients whose part is in the sum.
            key: the server's, secret, and new for each sum.

        Returns:
            (numel,) noise of ``sigma clip sqrt(1 - arrived/asked)``; None: nothing is missing.
        """
        absent = 1.0 - arrived / asked if asked else 1.0
        if not self.central or absent <= 0:
            return None
        return GaussianMechanism(self.clip, self.noise * math.sqrt(absent)).apply(torch.zeros(numel), key)
